"""What a value must be to be a setting: files beside weights are edited by hand, and cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.files.hub_format import MAX_SIDE

Check = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    """Whether it is a text."""
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    """Whether it is yes or no."""
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    return is_number(value) and value > 0


def are_numbers(value: Any) -> bool:
    """Whether it is a list of finite numbers."""
    return isinstance(value, list) and bool(value) and all(map(is_number, value))


def are_positive(value: Any) -> bool:
    """Whether it is a list of finite numbers above 0."""
    return are_numbers(value) and min(value) > 0


def is_side(value: Any) -> bool:
    """Whether it is a number of pixels, or of channels."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIDE


def is_size(value: Any) -> bool:
    """Whether it is [channels, height, width]."""
    return isinstance(value, list) and len(value) == 3 and all(map(is_side, value))


def check_values(found: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Raise for the first entry that is there and is not what it must be.

    Raises:
        CheckpointFormatError: The message names the entry.
    """
    for name, is_right in checks.items():
        if found.get(name) is not None and not is_right(found[name]):
            raise CheckpointFormatError(f"{name} makes no sense: {found[name]!r}")


SETTINGS: Mapping[str, Check] = {
    "input_size": is_size,
    "test_input_size": is_size,
    "mean": are_numbers,
    "std": are_positive,
    "interpolation": is_text,
    "crop_pct": is_positive,
    "crop_mode": is_text,
}
"""What is read of a pretrained_cfg, and whether a value can be that."""


def sensible_settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `preprocessing` that can be such, as a model's own metadata has them."""
    found = said.get("preprocessing")
    plain = {name: _plain(found.get(name)) for name in SETTINGS} if isinstance(found, Mapping) else {}
    return {name: value for name, value in plain.items() if value is not None and SETTINGS[name](value)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
