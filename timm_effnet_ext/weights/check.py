"""Refuses weights that are not this model's: another architecture, other numerics, damaged values."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from timm_effnet_ext.arch.identify import identify_state
from timm_effnet_ext.arch.layout import COUNTER_LEAF, Shape
from timm_effnet_ext.arch.names import TF_ONLY, read_name
from timm_effnet_ext.arch.rows import BN_EPS, PREFIX, TIMM_PREFIX
from timm_effnet_ext.errors import CheckpointFormatError, first_few
from timm_effnet_ext.hosts import argument_of_timm
from timm_effnet_ext.weights.source import (
    Statement,
    check_download,
    name_source,
    said_by_file,
    said_by_source,
    said_by_state,
)

_logger = logging.getLogger(__name__)

NUMERICS = {"pad_type": "same", "bn_eps": BN_EPS, "act_layer": None}
"""Arguments that change the result without changing any shape, with the value that a `tf_*` or our row implies."""

_SCALE = {"width_mult", "depth_mult"}
_LOADERS = ("load_checkpoint", "resume_checkpoint")  # timm's, which give a model the tensors of a file without its name
_CLASSIFIER = ("classifier.",)
_HEAD = ("conv_head.", "bn2.", *_CLASSIFIER)
_MOST_FITS = 2  # that a message names: most rows are others, scaled


class Checked(dict[str, Any]):
    """A state_dict that was its model's when it was read, and what errors call the place where it was read."""

    def __init__(self, state_dict: Mapping[str, Any], where: str) -> None:
        super().__init__(state_dict)
        self.where = where


def check_pretrained(state_dict: Mapping[str, Any], model: Any, cache_dir: Any = None) -> Checked:
    """Return `state_dict` if it is this model's; timm calls this before it adapts classifier and input channels.

    What timm adapts differs in shape, or is gone, when it comes to be loaded: only here can be told whose weights
    they are. `cache_dir` is what timm was given for the Hub's cache.

    Raises:
        CheckpointFormatError: Names or shapes are another architecture's, or the source's own config names a model
            that computes something else. The message names the architecture that fits.
    """
    cfg = model.pretrained_cfg
    where = name_source(cfg)
    if cfg.get("hf_hub_id"):
        check_download(cfg, where, cache_dir)
    _check_statement(said_by_source(cfg, cache_dir), model, where, is_file=bool(cfg.get("file")))
    classes, have, said = getattr(model, "num_classes", None), _classes(state_dict), cfg.get("num_classes")
    other_head = classes is not None and classes != said
    left_out = _HEAD if classes is None else _CLASSIFIER if other_head else ()  # a feature extractor has no head
    found, expected = (
        {k: shape for k, shape in shapes.items() if not k.startswith(left_out)}
        for shapes in (_shapes(state_dict), _expect_of_file(model, cfg))
    )
    use, draw = f"add num_classes={have} to pretrained_cfg_overlay", f"pass num_classes={classes} too"
    _check_shapes(found, expected, where, state_dict, use=use, draw=draw)
    if other_head and have != classes:
        _logger.warning("%s: classifier not loaded: the file has %d classes, %d were asked for", where, have, classes)
    elif other_head:
        _logger.warning(
            "%s: classifier of %d classes not loaded, as the pretrained cfg says num_classes=%s. "
            "To load it, add num_classes=%d to pretrained_cfg_overlay", where, have, said, have,
        )  # fmt: skip
    if cfg.get("state_dict") and model.conv_stem.weight.is_meta:
        state_dict = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state_dict.items()}  # the caller's own
    return Checked(state_dict, where)


def check_state(model: nn.Module, state_dict: Mapping[str, Any], strict: bool) -> None:
    """Check what is about to be copied into `model`, as far as it can be checked.

    Extra state, packed parameters and what else is no tensor is left to the modules; so are the values of tensors of
    other kinds, e.g. quantised or distributed ones.

    Raises:
        CheckpointFormatError: A shape differs, a name is missing or unknown (only with `strict`), a value is not
            finite, or a variance is negative.
    """
    path = next(filter(None, (argument_of_timm(name, "checkpoint_path") for name in _LOADERS)), None)
    where, have = getattr(state_dict, "where", str(path or "state_dict")), _classes(state_dict)
    use, draw = f"create the model with num_classes={have}", "pass strict=False without classifier.*"
    _check_statement(said_by_file(Path(path)) if path else said_by_state(state_dict), model, where, is_file=bool(path))
    if path:
        asked = f"num_classes={model.num_classes}, " if hasattr(model, "num_classes") else ""
        overlay = f"pretrained=True, pretrained_cfg_overlay=dict(file={where!r}, num_classes={have})"
        draw = f"pass {asked}{overlay} in place of checkpoint_path (to train.py: --pretrained --pretrained-path)"
    expected, found = _shapes(model.state_dict()), _shapes(state_dict)
    if not strict:
        shared = expected.keys() & found.keys()
        expected, found = ({k: d[k] for k in shared} for d in (expected, found))
    _check_shapes(found, expected, where, state_dict, use=use, draw=draw)
    for key in expected.keys() & found.keys():
        _check_values(key, state_dict[key], where)


def place_values(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return `state_dict` as a `model` without values can take it over: its dtypes, on the default device.

    Weights of a safetensors file stay the private memory map that they are: training writes into copies of its pages.
    """
    device = torch.get_default_device()
    own = model.state_dict()
    counters = {k: torch.zeros_like(v, device=device) for k, v in own.items() if k.endswith(COUNTER_LEAF)}
    given = {k: v.to(device, own[k].dtype) if k in own and isinstance(v, Tensor) else v for k, v in state_dict.items()}
    return counters | given


def _expect_of_file(model: Any, cfg: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes that the source of a model has, before timm cuts a background class and adds up channels."""
    shapes = _shapes(model.state_dict())
    offset, chans = cfg.get("label_offset") or 0, (cfg.get("input_size") or (3,))[0]
    for key in shapes.keys() & {"classifier.weight", "classifier.bias"}:
        shapes[key] = (shapes[key][0] + offset, *shapes[key][1:])
    stem = shapes["conv_stem.weight"]
    shapes["conv_stem.weight"] = (stem[0], chans, *stem[2:])
    return shapes


class _Difference(NamedTuple):
    """What a source has otherwise than a model: names it lacks, names too many, shapes (found, expected) by name."""

    missing: set[str]
    unknown: set[str]
    shapes: dict[str, tuple[Shape, Shape]]

    @classmethod
    def between(cls, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> _Difference:
        """Compare; counters are left out: files from before PyTorch 0.4.1 and frozen norms have none."""
        missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
        return cls(
            {k for k in missing if not k.endswith(COUNTER_LEAF)},
            {k for k in unknown if not k.endswith(COUNTER_LEAF)},
            {k: (found[k], expected[k]) for k in sorted(expected.keys() & found.keys()) if found[k] != expected[k]},
        )

    def __str__(self) -> str:
        said = [f"{len(names)} names {what} ({first_few(names, 2)})"
                for what, names in (("missing", self.missing), ("unknown", self.unknown)) if names]  # fmt: skip
        for name, (found, expected) in list(self.shapes.items())[:1]:
            said.insert(0, f"{len(self.shapes)} shapes differ (first {name}: {found}, expected {expected})")
        return "; ".join(said)


def _check_shapes(
    found: Mapping[str, Shape],
    expected: Mapping[str, Shape],
    where: str,
    source: Mapping[str, Any],
    *,
    use: str,
    draw: str,
) -> None:
    """Raise unless `found` has the names and shapes that are `expected`; `source` is all that there is.

    Where the source has another classifier, `use` says how to take it, `draw` how to do without.
    """
    full = _shapes(source)
    wrong = source.keys() & (expected.keys() - found.keys()) if full else source.keys()
    if wrong:
        raise CheckpointFormatError(
            f"{where}: not a state_dict: {len(wrong)} entries are no tensors ({first_few(wrong, 3)})"
        )
    difference = _Difference.between(found, expected)
    missing, unknown, shapes = difference
    if not any(difference):
        return
    if all(name.startswith(_HEAD) for name in (*missing, *unknown, *shapes)):
        what = _explain_head(difference, use, draw)
    elif fits := identify_state(full):
        more = f" and {len(fits) - _MOST_FITS} others" if len(fits) > _MOST_FITS else ""
        what = f"the weights are another model's. It fits {'; '.join(map(str, fits[:_MOST_FITS]))}{more}. {difference}"
    elif missing and not unknown and not shapes:
        what = f"the file is incomplete: {difference}"
    else:
        what = (
            "the weights are another model's. It fits none of the 29 architectures; "
            f"if it is a TensorFlow, Keras or foreign file, convert it first. {difference}"
        )
    raise CheckpointFormatError(f"{where}: {what}")


def _explain_head(difference: _Difference, use: str, draw: str) -> str:
    """Return how the head of weights that fit otherwise differs, and what to do."""
    missing, unknown, shapes = difference
    parts = ", ".join(part[:-1] for part in _HEAD if any(name.startswith(part) for name in missing | unknown))
    if not unknown and not shapes and parts == "classifier":
        return f"it has no classifier. To do without, {use}; to draw one, {draw}"
    if not unknown and not shapes:
        return (
            f"it has no {parts}: its weights are a feature extractor's. "
            "Create the model with features_only=True, or load them with strict=False"
        )
    if not missing and not shapes:
        return f"it has {parts}, which the model has not. To use it, {use}; to leave it out, {draw}"
    if not parts and all(len(a) == len(b) and a[1:] == b[1:] for a, b in shapes.values()):
        have, want = next(iter(shapes.values()))
        return f"its classifier has {have[0]} classes, the model's {want[0]}. To use it, {use}; to draw another, {draw}"
    return f"all fits but the head: {difference}"


def _classes(state_dict: Mapping[str, Any]) -> int:
    """Return how many classes a classifier has, 0 without one."""
    shape = _shapes(state_dict).get("classifier.bias")
    return shape[0] if shape else 0


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


def _check_statement(said: Statement | None, model: Any, where: str, *, is_file: bool) -> None:
    """Compare what weights say of themselves with what `model` computes; of a file that says nothing, warn.

    Raises:
        CheckpointFormatError: They are another model's, or of other numerics that were not asked for.
    """
    if said is None:
        return _say_assumed(model, where) if is_file else None
    _say_prepared(said, model, where)
    own, named = model.described, read_name(said.architecture)
    row, ours = named and named.row, own["architecture"].removeprefix(PREFIX)
    is_scaled = bool(_SCALE & {*said.model_args, *own["model_args"]})
    if named is None or row is None or (row != ours and not is_scaled):
        raise CheckpointFormatError(
            f"{where}: {said.source} names {said.architecture!r}, whose weights may have these shapes but not this "
            f"padding, BN eps or activation. {PREFIX}{ours} takes weights of {PREFIX}{ours} and {TIMM_PREFIX}{ours}."
        )
    saved, actual = {**NUMERICS, **named.model_args, **said.model_args}, {**NUMERICS, **own["model_args"]}
    other = [name for name in NUMERICS if _plain(saved[name]) != _plain(actual[name])]
    if unasked := [name for name in other if actual[name] == NUMERICS[name]]:
        given = ", ".join(f"{name}={saved[name]!r}" for name in unasked)
        have = ", ".join(repr(actual[name]) for name in unasked)
        raise CheckpointFormatError(
            f"{where}: {said.source} names {said.architecture!r} with {given}, the model has {have}: other numbers "
            f"from the same weights. Create it with {given}, or as local-dir: or hf-hub:, which follow a config.json."
        )
    for name in other:
        _logger.warning(
            "%s: %s=%r was asked for, the weights were trained with %r", where, name, actual[name], saved[name]
        )


def _say_prepared(said: Statement, model: Any, where: str) -> None:
    """Warn where the model's own cfg prepares images otherwise than the weights were made for."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    for name in ("mean", "std"):
        have, want = said.cfg.get(name), cfg.get(name)
        if isinstance(have, list | tuple) and want and list(have) != list(want):
            _logger.warning(
                "%s: made for images of %s=%s, the cfg of the model that loads it says %s. To follow the first, pass "
                "pretrained_cfg_overlay={%r: %s}", where, name, have, want, name, have,
            )  # fmt: skip


def _say_assumed(model: Any, where: str) -> None:
    """Warn that a file could be of timm's model that pads otherwise, unless the user has said which it is."""
    row = model.described["architecture"].removeprefix(PREFIX)
    if row not in TF_ONLY and not model.described["model_args"]:
        _logger.warning(
            "%s does not say which model it is of: taken for %s%s's. If it is of timm's %s, whose names and shapes are "
            "the same, the outputs are wrong: pass pad_type='', bn_eps=1e-5 then", where, TIMM_PREFIX, row, row,
        )  # fmt: skip


def _plain(value: Any) -> Any:
    """Return an argument so that two ways to name one activation are equal: timm's `hard_swish` is `HardSwish`."""
    return value.replace("_", "").lower() if isinstance(value, str) else value


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes of what is a tensor, or like one; the modules know what they do with the rest."""
    return {k: tuple(v.shape) for k, v in state_dict.items() if torch.overrides.is_tensor_like(v)}
