"""pytest plugin: timm's own model tests see the hucorz_* models as if they were all that timm has."""

from __future__ import annotations

import fnmatch
import os
from typing import Any

import timm
import timm.models

import timm_effnet_ext  # noqa: F401  registers the models
from timm_effnet_ext.arch.rows import PREFIX

MODULE = "hucorz_efficientnet"
MODELS = os.environ.get("TIMM_SUITE_MODELS", f"{PREFIX}*").split(",")

_list_models = timm.list_models


def _ours(filter: Any = "", module: Any = "", **kwargs: Any) -> list[str]:
    """`timm.list_models` restricted to our models; a list of timm's own modules that names ours' twin means ours."""
    if module and not any("efficientnet" in m for m in ([module] if isinstance(module, str) else module)):
        return []
    patterns = [filter] if isinstance(filter, str) else list(filter)
    names = _list_models([f"{m}*" if kwargs.get("include_tags") else m for m in MODELS], module=MODULE, **kwargs)
    if not any(patterns) or patterns == ["*"]:
        return names
    return [n for n in names if any(fnmatch.fnmatch(n, p) for p in patterns)]


timm.list_models = timm.models.list_models = _ours


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out the tests that timm wrote for named models of its own."""
    kept = [item for item in items if PREFIX in item.nodeid and "_pretrained[" not in item.nodeid]  # those need the Hub
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
