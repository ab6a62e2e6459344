"""The config.json of a folder in timm's Hub format, its settings checked before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.hub_format import CONFIG_FILE, WEIGHT_FILES, read_config

_PARTS = {"architecture": str, "pretrained_cfg": dict, "model_args": dict}
_MAX_SIDE = 1 << 16  # pixels


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
