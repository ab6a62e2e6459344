"""config.json in timm's Hub format, and of every entry who says so: the source, the user, or nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from timm_effnet_ext.arch.names import PYTORCH
from timm_effnet_ext.arch.rows import PREFIX, TIMM_PREFIX, Arch
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.classes import Classes
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.convert.numerics import SCALE, Numerics, sizes_as_stated
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import EffNetExtError, located
from timm_effnet_ext.files.hub_format import MAX_SIDE, PREPROCESSING

ASSUMED = "assumed"
"""An origin that begins with this word is nobody's statement."""

_REDUCTION = 32  # of the last feature map
_OF_BYTES = 10  # what is larger is no mean or std of pixels of 0 … 1, whatever a network does to them
_COMPUTED = "computed from the architecture"
_SHAPES = "the shapes of the weights"


class Sourced(NamedTuple):
    """A value, and who says so."""

    value: Any
    origin: str


class Config(NamedTuple):
    """What config.json says; `origins` has every entry by its path, e.g. "pretrained_cfg.mean"."""

    values: dict[str, Any]
    origins: dict[str, str]
    notes: tuple[str, ...]


def model_config(
    checkpoint: Checkpoint, candidate: Candidate, numerics: Numerics, classes: Classes, options: Options
) -> Config:
    """Return config.json for what a checkpoint was identified as.

    Raises:
        EffNetExtError: `timm_native`, and timm has no model that computes this; or options that fit no image.
    """
    match = candidate.match
    args = {
        name: Sourced(getattr(match, name), _SHAPES) for name, usual in SCALE.items() if getattr(match, name) != usual
    }
    args |= {name: Sourced(value, numerics.origins[name]) for name, value in numerics.model_args.items()}
    if not match.head:
        args["features_only"] = Sourced(True, _SHAPES)  # timm builds it so from the folder alone
    if options.timm_native:
        with located(checkpoint.path):
            architecture, args = _native(candidate.arch, args)
    else:
        architecture = PREFIX + candidate.arch.name
    top = {
        "architecture": Sourced(architecture, candidate.reason),
        "num_classes": Sourced(classes.num_classes, _SHAPES),
        "num_features": Sourced(_features(candidate), _COMPUTED),
    }
    if match.head:
        top["global_pool"] = args.get("global_pool", Sourced("avg", _COMPUTED))
    if classes.problem_type is not None:
        top["problem_type"] = Sourced(classes.problem_type, classes.problem_origin)
    if classes.named.names is not None:
        top["label_names"] = Sourced(_names(classes.named.names), classes.named.origin)
    if classes.named.descriptions:
        top["label_descriptions"] = Sourced(dict(classes.named.descriptions), classes.named.origin)
    cfg = _pretrained_cfg(checkpoint, candidate, classes.num_classes, options)
    values = {name: entry.value for name, entry in top.items()}
    origins = {name: entry.origin for name, entry in top.items()}
    for part, entries in (("model_args", args), ("pretrained_cfg", cfg)):
        if entries:
            values[part] = {name: entry.value for name, entry in entries.items()}
            origins |= {f"{part}.{name}": entry.origin for name, entry in entries.items()}
    return Config(values, origins, tuple(_notes(cfg)))


def _features(candidate: Candidate) -> int:
    """Return the channels of the head, or of the last block where there is none."""
    arch, match = candidate.arch, candidate.match
    return arch.head_width(match.width_mult) if match.head else arch.blocks(match.width_mult)[-1][-1].out_chs


def _names(names: tuple[str | None, ...]) -> list[str | None] | dict[str, str]:
    """Return names as timm takes them: a list, or an object where some outputs have none."""
    return list(names) if None not in names else {str(i): name for i, name in enumerate(names) if name is not None}


def _native(arch: Arch, args: Mapping[str, Sourced]) -> tuple[str, dict[str, Sourced]]:
    """Return timm's own model that computes this with the fewest arguments, and those.

    `tf_NAME` has TensorFlow's numerics, NAME PyTorch's; either takes the other's as arguments.
    """
    from timm import is_model  # the registry is asked for this alone

    told = ", ".join(f"{name}={entry.value!r}" for name, entry in args.items() if name in ("width_mult", "depth_mult"))
    if told:
        raise EffNetExtError(f"timm has no {arch.name} with {told}. Convert it without --timm-native")
    usual = {"pad_type": "same", "bn_eps": 1e-3}
    found = {name: args[name].value if name in args else value for name, value in usual.items()}
    ways = {
        name: {key: value for key, value in found.items() if value != own[key]}
        for name, own in ((TIMM_PREFIX + arch.name, usual), (arch.name, PYTORCH))
        if is_model(name)
    }
    name = min(ways, key=lambda name: len(ways[name]))
    kept = {key: entry for key, entry in args.items() if key not in usual}
    return name, kept | {key: args.get(key, Sourced(value, _COMPUTED)) for key, value in ways[name].items()}


def _pretrained_cfg(
    checkpoint: Checkpoint, candidate: Candidate, num_classes: int, options: Options
) -> dict[str, Sourced]:
    """Return timm's pretrained_cfg: what the user knows, then what the source says, then what others did."""
    match, arch = candidate.match, candidate.arch
    whose, assumed = candidate.dialect.preparation(arch)
    cfg = {name: Sourced(value, f"{ASSUMED}, as for {whose}") for name, value in assumed.items()}
    for statement in reversed((*checkpoint.statements, *checkpoint.habits(arch, num_classes))):
        cfg = _with_sizes(cfg, statement.preprocessing, statement.where)
    cfg = _with_sizes(_fitting(cfg, checkpoint, candidate), options.pretrained_cfg, options.knows)
    for key in ("input_size", "test_input_size"):
        if key in cfg:
            cfg[key] = cfg[key]._replace(value=(match.in_chans, *cfg[key].value[1:]))
    _check_crop(cfg)
    for key in ("mean", "std"):
        cfg[key] = _for_channels(key, cfg[key], match.in_chans, is_given=key in options.pretrained_cfg)
    pool = tuple(-(-side // _REDUCTION) for side in cfg["input_size"].value[1:])
    usual = {"fixed_input_size": False, "pool_size": pool, "first_conv": "conv_stem", "classifier": "classifier"}
    cfg |= {name: Sourced(value, _COMPUTED) for name, value in usual.items()}
    cfg["num_classes"] = Sourced(num_classes, _SHAPES)
    if options.license:
        cfg["license"] = Sourced(options.license, "given")
    return cfg


def _fitting(cfg: Mapping[str, Sourced], checkpoint: Checkpoint, candidate: Candidate) -> Mapping[str, Sourced]:
    """Return settings with a size at which the source pads as our model does."""
    channels, *size = cfg["input_size"].value
    graph, sizes = checkpoint.graph, sizes_as_stated(candidate, checkpoint.statements)
    if sizes is not None and not all(side in sizes for side in size):
        whose, near = "its own code", [*map(sizes.nearest, size)]
    elif graph is not None and not graph.fits(*size):
        whose, near = "the graph", [max(_REDUCTION, round(side / _REDUCTION) * _REDUCTION) for side in size]
    else:
        return cfg
    why = f"{ASSUMED} in place of {'x'.join(map(str, size))}, for which {whose} pads otherwise than SAME does"
    return _with_sizes(cfg, {"input_size": (channels, *near)}, why)


def _with_sizes(cfg: Mapping[str, Sourced], more: Mapping[str, Any], origin: str) -> dict[str, Sourced]:
    """Return `cfg` with more entries; a size to test at that belongs to another size is left out."""
    kept = {name: entry for name, entry in cfg.items() if name != "test_input_size" or "input_size" not in more}
    return kept | {name: Sourced(value, origin) for name, value in more.items()}


def _check_crop(cfg: Mapping[str, Sourced]) -> None:
    crop_pct = cfg["crop_pct"].value
    resized = max(cfg["input_size"].value[1:]) / crop_pct
    if resized > MAX_SIDE:
        raise EffNetExtError(
            f"crop_pct {crop_pct:g} makes images of {resized:.0f} pixels to crop from, more than {MAX_SIDE}: give a "
            "larger --crop-pct"
        )


def _for_channels(key: str, entry: Sourced, in_chans: int, *, is_given: bool) -> Sourced:
    """Return mean or std with a value for each channel; one value stands for all, other ones for their average."""
    values = tuple(entry.value)
    if len(values) not in (1, in_chans, *(() if is_given else (3,))):
        raise EffNetExtError(
            f"{key} has {len(values)} values ({entry.origin}), the images have {in_chans} channels: give "
            f"--{key} one each"
        )
    if largest := max((value for value in values if abs(value) > _OF_BYTES), default=0.0):
        raise EffNetExtError(
            f"{key} has {largest:g} ({entry.origin}), which is of pixels of 0 … 255, and timm's are of 0 … 1: give "
            f"--{key} divided by 255"
        )
    if len(values) == in_chans:
        return entry._replace(value=values)
    average = (sum(values) / len(values),) * in_chans
    if len(values) == 1:
        return entry._replace(value=average)
    whose = entry.origin.removeprefix(f"{ASSUMED}, ")
    return Sourced(average, f"{ASSUMED}, the average of three channels {whose}")


def _notes(cfg: Mapping[str, Sourced]) -> Iterator[str]:
    """Yield a sentence for each reason for which entries were assumed."""
    reasons: dict[str, list[str]] = {}
    for name in PREPROCESSING:
        if name in cfg and cfg[name].origin.startswith(ASSUMED):
            reasons.setdefault(cfg[name].origin, []).append(name)
    for origin, names in reasons.items():
        options = ", ".join(f"--{name.replace('_', '-')}" for name in names if name != "test_input_size")
        yield f"{origin}: {', '.join(names)}. Say otherwise with {options or '--input-size'}"
