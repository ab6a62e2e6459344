"""What timm says beside weights, in a folder's config.json or as train.py's arguments, checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.errors import CheckpointFormatError, located
from timm_effnet_ext.files.hub_format import CONFIG_FILE, MAX_SIDE, WEIGHT_FILES, read_config
from timm_effnet_ext.files.outputs import PROBLEM_TYPES, stated_names

TRAIN_PY = "train.py's arguments"

_PARTS = {"architecture": str, "pretrained_cfg": dict, "model_args": dict, "label_descriptions": dict}
_NUMERICS = ("pad_type", "act_layer", "bn_eps", "global_pool")


def config_statement(file: Path) -> Statement | None:
    """Return what the config.json beside a weight file in timm's Hub format says, or None without one.

    Raises:
        CheckpointFormatError: It is damaged, or a setting that is read makes no sense.
    """
    path = file.with_name(CONFIG_FILE)
    if file.name not in WEIGHT_FILES or not path.is_file():
        return None
    with located(path):
        return _stated(read_config(path))


def _stated(config: Mapping[str, Any]) -> Statement:
    config = {name: value for name, value in config.items() if value is not None}
    if not all(isinstance(config.get(name, kind()), kind) for name, kind in _PARTS.items()):
        raise CheckpointFormatError("expected an object in timm's Hub format")
    cfg = config.get("pretrained_cfg", config)  # timm's former format has no part for it
    problem_type = config.get("problem_type")
    for name, is_right in _SETTINGS.items():
        if cfg.get(name) is not None and not is_right(cfg[name]):
            raise CheckpointFormatError(f"{name} makes no sense: {cfg[name]!r}")
    if problem_type not in (None, *PROBLEM_TYPES):
        raise CheckpointFormatError(f"problem_type makes no sense: {problem_type!r}")
    try:
        names = stated_names(config)
    except ValueError as err:
        raise CheckpointFormatError(str(err)) from err
    return Statement(
        CONFIG_FILE,
        name=config.get("architecture"),
        model_args=config.get("model_args", {}),
        preprocessing={name: cfg[name] for name in _SETTINGS if cfg.get(name) is not None},
        problem_type=problem_type,
        label_names=names,
        label_descriptions=config.get("label_descriptions") or cfg.get("label_descriptions") or {},
    )


def sensible_settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `preprocessing` that can be such, as a model's own metadata has them."""
    found = said.get("preprocessing")
    plain = {name: _plain(found.get(name)) for name in _SETTINGS} if isinstance(found, Mapping) else {}
    return {name: value for name, value in plain.items() if value is not None and _SETTINGS[name](value)}


def train_py_statement(args: Mapping[str, Any], arch: str | None, cfg: Mapping[str, Any] = {}) -> Statement:
    """Return what train.py's arguments say of numerics and images.

    What they leave open train.py takes from the cfg of its model, which is `cfg` if that is known, else by its name:
    timm/data/config.py `resolve_data_config`.
    """
    own = args.get("model_kwargs")
    stated = {**(own if isinstance(own, Mapping) else {}), "bn_eps": args.get("bn_eps"), "global_pool": args.get("gp")}
    return Statement(
        TRAIN_PY,
        model_args={name: value for name in _NUMERICS if isinstance(value := stated.get(name), str | float)},
        preprocessing=_resolved(args, arch, cfg),
    )


def _resolved(args: Mapping[str, Any], arch: str | None, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return how train.py prepared the images of a run, as far as it can be told."""
    from timm import is_model
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    import timm_effnet_ext.models.hucorz_efficientnet  # noqa: F401  registers the models

    name = arch or ""
    by_name = get_pretrained_cfg(name) if is_model(name.partition(".")[0]) else None
    known = dict(cfg) or (by_name.to_dict() if by_name is not None else {})
    try:
        resolved = resolve_data_config(dict(args), pretrained_cfg=known)
    except (AssertionError, TypeError, ValueError, LookupError, AttributeError):  # arguments that no run can have had
        return {}
    given = {name: args.get(name) for name in ("mean", "std", "crop_pct")} | {
        "interpolation": args.get("interpolation") or None,
        "input_size": args.get("input_size") or args.get("img_size"),
        "crop_mode": args.get("crop_mode"),
    }
    stated = {name: value for name, value in resolved.items() if known or given.get(name) is not None}
    return sensible_settings({"preprocessing": stated})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _is_size(value: Any) -> bool:
    return _are_numbers(value) and len(value) == 3 and all(isinstance(n, int) and 0 < n <= MAX_SIDE for n in value)


_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "input_size": _is_size,
    "test_input_size": _is_size,
    "mean": _are_numbers,
    "std": lambda value: _are_numbers(value) and min(value) > 0,
    "interpolation": _is_text,
    "crop_pct": lambda value: _is_number(value) and value > 0,
    "crop_mode": _is_text,
}
"""What is read of a pretrained_cfg, and whether a value can be that."""
