"""What timm says beside weights, in a folder's config.json or as train.py's arguments, checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.convert.readers.pytorch.transformers import (
    MODEL_TYPE,
    PLACEHOLDERS_NOTE,
    transformers_statements,
)
from timm_effnet_ext.convert.readers.pytorch.values import SETTINGS, check_values, sensible_settings
from timm_effnet_ext.errors import CheckpointFormatError, located
from timm_effnet_ext.files.hub_format import (
    CONFIG_FILE,
    INDEX_FILES,
    PROBLEM_TYPES,
    WEIGHT_FILES,
    has_placeholders,
    read_object,
    stated_names,
)

TRAIN_PY = "train.py's arguments"

_PARTS = {"architecture": str, "pretrained_cfg": dict, "model_args": dict, "label_descriptions": dict}
# One of these is in a config.json of timm's, present or former; a class of the user's own has its arguments there.
_OF_TIMM = {"architecture", "pretrained_cfg", "model_args", "problem_type", "label_names", "id2label"}
_WRAPPER = "timm_wrapper"  # transformers' TimmWrapper, whose config.json is timm's with more
_NUMERICS = ("pad_type", "act_layer", "bn_eps", "global_pool")


def config_statements(file: Path) -> tuple[list[Statement], list[str]]:
    """Return what the config.json beside a weight file says, timm's or transformers', and what it leaves unknown.

    It is the file's own where the file is called as both libraries call theirs, or where it says that it is of
    transformers. Anybody else's says nothing here.

    Raises:
        CheckpointFormatError: It is damaged, a setting that is read makes no sense, or no network of ours has it.
    """
    path = file.with_name(CONFIG_FILE)
    is_own = file.name in (*WEIGHT_FILES, *INDEX_FILES)
    if not path.is_file():
        return [], []
    with located(path):
        try:
            config = read_object(path)
        except CheckpointFormatError:
            if is_own:
                raise
            return [], []
        if config.get("model_type") == MODEL_TYPE:
            return transformers_statements(config, file)
        is_own |= config.get("model_type") == _WRAPPER
        if not is_own or not config.keys() & _OF_TIMM:
            return [], []
        return [_stated(config)], [PLACEHOLDERS_NOTE] if has_placeholders(config) else []


def _stated(config: Mapping[str, Any]) -> Statement:
    config = {name: value for name, value in config.items() if value is not None}
    if not all(isinstance(config.get(name, kind()), kind) for name, kind in _PARTS.items()):
        raise CheckpointFormatError("expected an object in timm's Hub format")
    former = config if "architecture" in config else {}  # timm's former format has no part for it
    cfg = config.get("pretrained_cfg", former)
    problem_type = config.get("problem_type")
    check_values(cfg, SETTINGS)
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
        preprocessing={name: cfg[name] for name in SETTINGS if cfg.get(name) is not None},
        problem_type=problem_type,
        label_names=names,
        label_descriptions=config.get("label_descriptions") or cfg.get("label_descriptions") or {},
    )


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
