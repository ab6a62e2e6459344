"""config.json in timm's Hub format: how timm builds the model and prepares its images."""

from __future__ import annotations

from typing import Any

from timm_effnet_ext.arch import ARCHS, PREFIX, TIMM_PREFIX
from timm_effnet_ext.convert.checkpoint import Checkpoint
from timm_effnet_ext.convert.identify import Candidate
from timm_effnet_ext.convert.preprocessing import preprocessing
from timm_effnet_ext.convert.pytorch.dialects import model_args
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import EffNetExtError

_REDUCTION = 32  # of the last feature map
_SCALE = {"width_mult": 1, "depth_mult": 1, "in_chans": 3}  # known from the shapes, whatever the file says


def model_config(checkpoint: Checkpoint, candidate: Candidate, num_classes: int, options: Options) -> dict[str, Any]:
    """Return config.json for what a checkpoint was identified as.

    Raises:
        EffNetExtError: `timm_native`, and timm's model of that name computes something else.
    """
    match, dialect = candidate.match, candidate.dialect.name
    arch = ARCHS[match.arch_name]
    args: dict[str, Any] = {name: value for name, usual in _SCALE.items() if (value := getattr(match, name)) != usual}
    stated = {name: value for name, value in checkpoint.model_args.items() if name not in _SCALE}
    args |= {**model_args(dialect, arch.name), **stated}
    if options.timm_native and args:
        told = ", ".join(f"{name}={value!r}" for name, value in args.items())
        raise EffNetExtError(
            f"{checkpoint.path}: timm's {TIMM_PREFIX}{arch.name} is another model: this one needs {told}. "
            "Convert it without --timm-native"
        )
    config = {
        "architecture": (TIMM_PREFIX if options.timm_native else PREFIX) + arch.name,
        "num_classes": num_classes,
        "num_features": arch.head_width(match.width_mult),
        "global_pool": "avg",
    }
    if options.label_names is not None:
        config["label_names"] = list(options.label_names)
    if args:
        config["model_args"] = args
    return {**config, "pretrained_cfg": _pretrained_cfg(checkpoint, candidate, num_classes, options)}


def _pretrained_cfg(checkpoint: Checkpoint, candidate: Candidate, num_classes: int, options: Options) -> dict[str, Any]:
    """Return timm's pretrained_cfg: what the family does, then what the file says, then what the caller knows."""
    in_chans = candidate.match.in_chans
    known = {**checkpoint.preprocessing, **options.pretrained_cfg}
    family = preprocessing(candidate.dialect.name, ARCHS[candidate.match.arch_name])
    if "input_size" in known:  # a size to test at that belongs to another one
        family.pop("test_input_size", None)
    cfg: dict[str, Any] = {
        **family,
        **known,
        "fixed_input_size": False,
        "num_classes": num_classes,
        "first_conv": "conv_stem",
        "classifier": "classifier",
    }
    for key in ("input_size", "test_input_size"):
        if key in cfg:
            cfg[key] = (in_chans, *cfg[key][1:])
    for key in ("mean", "std"):
        if len(cfg[key]) != in_chans:  # what a grey image or more channels mean, no table says
            cfg[key] = (sum(cfg[key]) / len(cfg[key]),) * in_chans
    cfg["pool_size"] = tuple(-(-side // _REDUCTION) for side in cfg["input_size"][1:])
    if options.license:
        cfg["license"] = options.license
    return cfg
