"""What timm says beside weights, in a folder's config.json or as train.py's arguments, checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.hub_format import CONFIG_FILE, WEIGHT_FILES, read_config

_PARTS = {"architecture": str, "pretrained_cfg": dict, "model_args": dict}
_MAX_SIDE = 1 << 16  # pixels
_PLAIN = (str, int, float, list)
_OF_TRAIN_PY = ("input_size", "mean", "std", "interpolation", "crop_pct")
_NUMERICS = ("pad_type", "act_layer", "bn_eps", "global_pool")


def config_beside(file: Path) -> dict[str, Any]:
    """Return the config.json of a folder in timm's Hub format, or nothing.

    Raises:
        CheckpointFormatError: It is damaged, or a setting that is read makes no sense.
    """
    path = file.with_name(CONFIG_FILE)
    if file.name not in WEIGHT_FILES or not path.is_file():
        return {}
    config = read_config(path)
    if not all(isinstance(config.get(k, kind()), kind) for k, kind in _PARTS.items()):
        raise CheckpointFormatError(f"{path}: expected an object in timm's Hub format")
    cfg = config.get("pretrained_cfg", {})
    for name, is_right in _SETTINGS.items():
        if cfg.get(name) is not None and not is_right(cfg[name]):
            raise CheckpointFormatError(f"{path}: {name} makes no sense: {cfg[name]!r}")
    return config


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config says of how images are prepared, as entries of timm's pretrained_cfg."""
    cfg = config.get("pretrained_cfg", {})
    return {name: cfg[name] for name in _SETTINGS if cfg.get(name) is not None}


def settings_of_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return what arguments of train.py say of how images are prepared, in the same way."""
    channels = 3 if args.get("in_chans") is None else args["in_chans"]
    stated: dict[str, Any] = {"input_size": [channels, args.get("img_size"), args.get("img_size")]}
    plain = {name: value for name, value in args.items() if isinstance(value, _PLAIN) and value}
    stated |= {name: plain[name] for name in _OF_TRAIN_PY if name in plain}
    return {name: value for name, value in stated.items() if _SETTINGS[name](value)}


def model_args_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the model that arguments of train.py give, as far as they change what it computes."""
    own = args.get("model_kwargs")
    stated = {**(own if isinstance(own, Mapping) else {}), "bn_eps": args.get("bn_eps"), "global_pool": args.get("gp")}
    return {name: value for name in _NUMERICS if isinstance(value := stated.get(name), str | float)}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _is_size(value: Any) -> bool:
    return _are_numbers(value) and len(value) == 3 and all(isinstance(n, int) and 0 < n <= _MAX_SIDE for n in value)


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
