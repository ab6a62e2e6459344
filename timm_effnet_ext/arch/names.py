"""Which model a text names, as timm, this package and segmentation_models_pytorch name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from timm_effnet_ext.arch.rows import ARCHS, PREFIX, TIMM_PREFIX

PYTORCH: Mapping[str, Any] = {"pad_type": "", "bn_eps": 1e-5}
"""The arguments with which our model computes as timm's model of that name without `tf_`."""

TF_ONLY = frozenset(f"efficientnetv2_b{i}" for i in range(4))
"""Rows that timm has with `tf_` alone: timm/models/efficientnet.py."""

# Tags that were part of a name before timm had tags: timm/models/efficientnet.py `register_model_deprecations`.
_FORMER_TAG = re.compile(r"_(ap|ns|ns_475|in21k|in21ft1k)")
# What timm names like ours and builds otherwise: timm/models/efficientnet.py.
_RELATIVE = re.compile(
    r"(gc_)?efficientnetv2_rw_\w+|(tf_)?mixnet_\w+|efficientnet_(blur|h|x)_\w+"
    r"|test_efficientnet\w*|efficientnet_\w+_(pruned|gn|evos)"
)


class TimmName(NamedTuple):
    """A model of timm's or ours, read from a name; `row` is None for a relative that is none of the 29."""

    name: str
    row: str | None
    model_args: Mapping[str, Any] = {}


def read_name(text: str) -> TimmName | None:
    """Return the model that a text names as timm or this package does, or None where it names another or a folder.

    >>> read_name("hf-hub:timm/efficientnet_b0.ra_in1k")
    TimmName(name='efficientnet_b0', row='efficientnet_b0', model_args={'pad_type': '', 'bn_eps': 1e-05})
    >>> read_name("tf_efficientnet_b0_ns").row, read_name("local-dir:efficientnet_b0"), read_name("resnet50")
    ('efficientnet_b0', None, None)
    """
    if text.startswith("local-dir:"):
        return None
    name = text.rpartition(":")[2].rpartition("/")[2].removeprefix("timm.").removeprefix("models.")
    name = name.partition("@")[0].partition(".")[0].strip().lower()
    is_smp = name.startswith("timm-")  # segmentation_models_pytorch/encoders/timm_efficientnet.py: never SAME
    name = name.removeprefix("tu-").removeprefix("timm-").replace("-", "_") if is_smp else name.removeprefix("tu-")
    bare = name.removeprefix(PREFIX).removeprefix(TIMM_PREFIX)
    row = bare if bare in ARCHS else _FORMER_TAG.sub("", bare)
    if row in ARCHS:
        if is_smp or (bare == name and row not in TF_ONLY):
            return TimmName(name, row, PYTORCH)
        return TimmName(name, row)
    return TimmName(name, None) if _RELATIVE.fullmatch(name) else None
