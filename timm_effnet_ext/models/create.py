"""Builds a model for a registry entry point: row and keyword arguments in, checked weights loaded."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg

from timm_effnet_ext.arch.rows import ARCHS, PREFIX
from timm_effnet_ext.models.efficientnet import EfficientNet, EfficientNetFeatures
from timm_effnet_ext.weights.check import check_pretrained
from timm_effnet_ext.weights.load_errors import check_readable_checkpoint, explain_load_errors

# Layers of one's own and a chosen place may need values that no weight file holds; all else starts without values.
_NEEDS_VALUES = {"act_layer", "norm_layer", "se_layer", "device", "dtype"}
_FEATURES_DROP: Any = ("num_classes", "global_pool")  # of the classifier only


def create(name: str, pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """Build architecture `name` for timm's `create_model`.

    Args:
        name: Row of `ARCHS`.
        pretrained: Load the weights that the pretrained cfg names, checked by `weights.check`.
        **kwargs: Arguments of `EfficientNet`, and those of timm's `build_model_with_cfg`.

    Raises:
        EffNetExtError: The weights could not be had.
        CheckpointFormatError: The weights are unreadable, damaged or another model's.
    """
    model_cls: type = EfficientNet
    dropped: Any
    strict, dropped = kwargs.pop("pretrained_strict", True), None
    if kwargs.get("features_only") and not kwargs.keys() & {"feature_cls", "feature_cfg"}:
        kwargs.pop("features_only")
        model_cls, strict, dropped = EfficientNetFeatures, False, _FEATURES_DROP
    if pretrained and not kwargs.keys() & _NEEDS_VALUES:
        kwargs["device"] = "meta"  # no random weights that the file then replaces
    check_readable_checkpoint()
    with explain_load_errors(PREFIX + name):
        model: Any = build_model_with_cfg(
            model_cls,
            PREFIX + name,
            pretrained,
            pretrained_strict=strict,
            pretrained_filter_fn=partial(check_pretrained, cache_dir=kwargs.get("cache_dir")),
            kwargs_filter=dropped,
            arch=ARCHS[name],
            **kwargs,
        )
    if model_cls is EfficientNetFeatures:
        cfg = {k: v for k, v in model.pretrained_cfg.items() if k not in ("num_classes", "classifier", "global_pool")}
        model.pretrained_cfg = model.default_cfg = cfg
    return model
