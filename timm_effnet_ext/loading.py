"""Refuses weights that are not this model's: another architecture, other numerics, damaged values."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from timm_effnet_ext.arch import BN_EPS, PREFIX, TIMM_PREFIX
from timm_effnet_ext.errors import CheckpointFormatError, first_few
from timm_effnet_ext.identify import identify_state
from timm_effnet_ext.layout import COUNTER_LEAF, Shape
from timm_effnet_ext.provenance import (
    argument_of_caller,
    check_download,
    config_beside,
    config_of_source,
    name_of_source,
)

_logger = logging.getLogger(__name__)

# Arguments that change the result without changing any shape, with the value that a `tf_*` or our row implies.
_NUMERICS = {"pad_type": "same", "bn_eps": BN_EPS, "act_layer": None}
_CLASSIFIER = ("classifier.",)
_HEAD = ("conv_head.", "bn2.", *_CLASSIFIER)


def check_pretrained(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return `state_dict` if it is this model's; timm calls this before it adapts classifier and input channels.

    Raises:
        CheckpointFormatError: Names or shapes are another architecture's, or the source's own config names a model
            that computes something else. The message names the architecture that fits.
    """
    cfg = model.pretrained_cfg
    where = name_of_source(cfg)
    if cfg.get("hf_hub_id"):
        check_download(cfg, where)
    _check_config(config_of_source(cfg), model, where)
    classes, file_classes = getattr(model, "num_classes", None), cfg.get("num_classes")
    other_head = classes is not None and classes != file_classes
    left_out = _HEAD if classes is None else _CLASSIFIER if other_head else ()  # a feature extractor has no head
    found, expected = (
        {k: shape for k, shape in shapes.items() if not k.startswith(left_out)}
        for shapes in (_shapes(state_dict), _shapes_in_file(model, cfg))
    )
    _check_shapes(found, expected, where, state_dict)
    if other_head:
        _logger.warning(
            "%s: classifier not loaded: the file has %s classes, %s were asked for", where, file_classes, classes
        )
    if cfg.get("state_dict") and model.conv_stem.weight.is_meta:
        return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state_dict.items()}  # the caller's own
    return state_dict


def check_state(model: nn.Module, state_dict: Mapping[str, Any], strict: bool) -> None:
    """Check what is about to be copied into `model`, as far as it can be checked.

    Extra state, packed parameters and what else is no tensor is left to the modules; so are the values of tensors of
    other kinds, e.g. quantised or distributed ones.

    Raises:
        CheckpointFormatError: A shape differs, a name is missing or unknown (only with `strict`), a value is not
            finite, or a variance is negative.
    """
    path = argument_of_caller("load_checkpoint", "checkpoint_path")
    where = str(path or "state_dict")
    if path:
        _check_config(config_beside(Path(path)), model, where)
    expected, found = _shapes(model.state_dict()), _shapes(state_dict)
    if not strict:
        shared = expected.keys() & found.keys()
        expected, found = ({k: d[k] for k in shared} for d in (expected, found))
    _check_shapes(found, expected, where, state_dict)
    for key in expected.keys() & found.keys():
        _check_values(key, state_dict[key], where)


def placed(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return `state_dict` as a `model` without values can take it over: its dtypes, on the default device.

    Weights of a safetensors file stay the private memory map that they are: training writes into copies of its pages.
    """
    device = torch.get_default_device()
    own = model.state_dict()
    counters = {k: torch.zeros_like(v, device=device) for k, v in own.items() if k.endswith(COUNTER_LEAF)}
    given = {k: v.to(device, own[k].dtype) if k in own and isinstance(v, Tensor) else v for k, v in state_dict.items()}
    return counters | given


def modules_without_values(model: nn.Module) -> list[nn.Module]:
    """Return the modules that a load left without values, e.g. the classifier of other classes."""
    return [m for m in model.modules() if any(p.is_meta for p in m.parameters(recurse=False))]


def _shapes_in_file(model: Any, cfg: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes that the source of a model has, before timm cuts a background class and adds up channels."""
    shapes = _shapes(model.state_dict())
    offset, chans = cfg.get("label_offset") or 0, (cfg.get("input_size") or (3,))[0]
    for key in shapes.keys() & {"classifier.weight", "classifier.bias"}:
        shapes[key] = (shapes[key][0] + offset, *shapes[key][1:])
    stem = shapes["conv_stem.weight"]
    shapes["conv_stem.weight"] = (stem[0], chans, *stem[2:])
    return shapes


def _check_shapes(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], where: str, source: Mapping[str, Any]
) -> None:
    """Raise unless `found` has the names and shapes that are `expected`; `source` is all that there is."""
    full = _shapes(source)
    wrong = source.keys() & (expected.keys() - found.keys()) if full else source.keys()
    if wrong:
        raise CheckpointFormatError(
            f"{where}: not a state_dict: {len(wrong)} entries are no tensors ({first_few(wrong, 3)})"
        )
    # Files written before PyTorch 0.4.1 have no counters, nor have frozen norms; a counter carries no weight.
    missing = {k for k in expected.keys() - found.keys() if not k.endswith(COUNTER_LEAF)}
    unknown = {k for k in found.keys() - expected.keys() if not k.endswith(COUNTER_LEAF)}
    differ = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    if not (missing or unknown or differ):
        return
    if not missing and not unknown and all(k.startswith(_CLASSIFIER) for k in differ):
        have, want = found[differ[0]][0], expected[differ[0]][0]
        raise CheckpointFormatError(
            f"{where}: the classifier has {have} classes, the model {want}. Pass num_classes={have}."
        )
    if fits := "; ".join(map(str, identify_state(full))):
        hint = f"It fits {fits}."
    elif missing and not differ and not unknown:
        hint = "The file is incomplete."
    else:
        hint = "It fits none of the 26 architectures; if it is a TensorFlow, Keras or foreign file, convert it first."
    parts = []
    if differ:
        k = differ[0]
        parts.append(f"{len(differ)} shapes differ (first {k}: {found[k]}, expected {expected[k]})")
    parts += [
        f"{len(names)} names {what} ({first_few(names, 2)})"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    raise CheckpointFormatError(f"{where}: the weights are another model's. {hint} {'; '.join(parts)}")


def _check_values(key: str, value: Any, where: str) -> None:
    is_plain = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_meta
    if not is_plain or not value.is_floating_point() or value.itemsize == 1:  # float8 has no sums
        return
    # A sum is finite only if every value is, and is several times faster to have; it may overflow, so it only acquits.
    if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise CheckpointFormatError(f"{where}: {key} has {count} values that are not finite (of {value.numel()})")
    if key.endswith("running_var") and bool((value < 0).any()):
        raise CheckpointFormatError(f"{where}: {key} has a negative variance ({value.min().item():.4g})")


def _check_config(config: dict[str, Any] | None, model: Any, where: str) -> None:
    """Compare what the source says of itself with what the model computes."""
    if not config or not isinstance(config.get("architecture"), str):
        return
    ours = model.pretrained_cfg["architecture"].removeprefix(PREFIX)
    theirs = config["architecture"]
    if theirs not in (PREFIX + ours, TIMM_PREFIX + ours):
        raise CheckpointFormatError(
            f"{where}: its config.json names {theirs!r}, whose weights may have these shapes but not this padding, "
            f"BN eps or activation. {PREFIX}{ours} takes weights of {PREFIX}{ours} and {TIMM_PREFIX}{ours}."
        )
    saved = config.get("model_args") or {}
    actual = model.numerics
    for name, default in _NUMERICS.items():
        have, want = saved.get(name, default), actual[name]
        if have == want:
            continue
        if want == default:
            raise CheckpointFormatError(
                f"{where}: its config.json says {name}={have!r}, the model has {want!r}: other numbers from the same "
                f"weights. Create it with {name}={have!r}, or as local-dir:/hf-hub: so that the config is followed."
            )
        _logger.warning("%s: %s=%r was asked for, the weights were trained with %r", where, name, want, have)


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes of what is a tensor, or like one; the modules know what they do with the rest."""
    return {k: tuple(v.shape) for k, v in state_dict.items() if torch.overrides.is_tensor_like(v)}
