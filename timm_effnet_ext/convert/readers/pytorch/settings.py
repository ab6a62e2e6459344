"""What timm says beside weights, and what a value must be to be a setting: such files are edited by hand, and cut."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.files.hub_format import (
    CONFIG_FILE,
    CROP_MODES,
    INTERPOLATIONS,
    MAX_SIDE,
    PROBLEM_TYPES,
    has_placeholders,
    stated_names,
)

TRAIN_PY = "train.py's arguments"
_PLACEHOLDERS = f"{CONFIG_FILE} calls the classes LABEL_0, LABEL_1, …: placeholders of transformers, no names"

_PARTS = {"architecture": str, "pretrained_cfg": dict, "model_args": dict, "label_descriptions": dict}
_NUMERICS = ("pad_type", "act_layer", "bn_eps", "global_pool")

Check = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether it is a number that a float can be, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


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
    "interpolation": lambda value: value in INTERPOLATIONS,
    "crop_pct": is_positive,
    "crop_mode": lambda value: value in CROP_MODES,
}
"""What is read of a pretrained_cfg, and whether a value can be that."""


def sensible_settings(found: Any) -> dict[str, Any]:
    """Return the entries of a table that can be settings, as a model's own metadata has them; tuples become lists."""
    table = found if isinstance(found, Mapping) else {}
    plain = {name: list(value) if isinstance(value := table.get(name), tuple) else value for name in SETTINGS}
    return {name: value for name, value in plain.items() if SETTINGS[name](value)}


def names_in(config: Mapping[str, Any]) -> tuple[dict[int, str], list[str]]:
    """Return the class names that a config.json has, by output, and a note where they are placeholders.

    Raises:
        CheckpointFormatError: They are no texts, or their keys are no numbers.
    """
    try:
        return stated_names(config), [_PLACEHOLDERS] if has_placeholders(config) else []
    except ValueError as err:
        raise CheckpointFormatError(str(err)) from err


def timm_statements(config: Mapping[str, Any]) -> tuple[list[Statement], list[str]]:
    """Return what a config.json of timm's says, and what it leaves unknown.

    Raises:
        CheckpointFormatError: It is none, or a setting makes no sense.
    """
    config = {name: value for name, value in config.items() if value is not None}
    if not all(isinstance(config.get(name, kind()), kind) for name, kind in _PARTS.items()):
        raise CheckpointFormatError("expected an object in timm's Hub format")
    former = config if "architecture" in config else {}  # timm's former format has no part for it
    cfg = config.get("pretrained_cfg", former)
    check_values(cfg, SETTINGS)
    check_values(config, {"problem_type": PROBLEM_TYPES.__contains__})
    names, unknown = names_in(config)
    said = Statement(
        CONFIG_FILE,
        name=config.get("architecture"),
        model_args=config.get("model_args", {}),
        preprocessing={name: cfg[name] for name in SETTINGS if cfg.get(name) is not None},
        problem_type=config.get("problem_type"),
        label_names=names,
        label_descriptions=config.get("label_descriptions") or cfg.get("label_descriptions") or {},
    )
    return [said], unknown


def train_py_statement(args: Mapping[str, Any], arch: Any, cfg: Mapping[str, Any]) -> Statement:
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


def _resolved(args: Mapping[str, Any], arch: Any, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return how train.py prepared the images of a run, as far as it can be told."""
    from timm import is_model
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    import timm_effnet_ext.models.hucorz_efficientnet  # noqa: F401  registers the models

    name = arch if isinstance(arch, str) else ""
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
    return sensible_settings(stated)
