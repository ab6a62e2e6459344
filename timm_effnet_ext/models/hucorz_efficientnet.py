"""The registry: one entry point per architecture, with pretrained cfgs derived from timm's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    register_model,
)

from timm_effnet_ext.arch.rows import ARCHS, PREFIX, TIMM_PREFIX
from timm_effnet_ext.errors import EffNetExtError

if TYPE_CHECKING:
    from timm_effnet_ext.models.efficientnet import EfficientNet

HUB_ENV = "TIMM_EFFNET_EXT_HUB"
"""A Hub user whose repositories `<user>/<model>.<tag>` replace timm's `timm/tf_*` ones."""

# Layers of one's own and a chosen place may need values that no weight file holds; all else starts without values.
_NEEDS_VALUES = {"act_layer", "norm_layer", "se_layer", "device", "dtype"}
_FEATURES_DROP: Any = ("num_classes", "global_pool")  # the classifier alone has them

_SIZES = ("input_size", "test_input_size", "pool_size", "crop_pct")

# Google published these (automl efficientnetv2/README.md), timm never carried them: tag -> whose cfg they share.
_ABSENT_FROM_TIMM = {
    name: {"in21k": "efficientnetv2_b3", "in21k_ft_in1k": "efficientnetv2_b3"}
    for name in ("efficientnetv2_b0", "efficientnetv2_b1", "efficientnetv2_b2")
}


def cfgs_by_tag(name: str) -> dict[str, PretrainedCfg]:
    """Return tag -> pretrained cfg of a registry name, the default tag first; not every one has weights."""
    return {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(name).items()}


def pretrained_cfgs(name: str, hub_user: str | None = None) -> dict[str, PretrainedCfg]:
    """Return the cfgs of one architecture by tag, the default tag first; `hub_user` says whose repositories."""
    cfgs = cfgs_by_tag(TIMM_PREFIX + name)
    sizes = {size: getattr(next(iter(cfgs.values())), size) for size in _SIZES}
    for tag, donor in _ABSENT_FROM_TIMM.get(name, {}).items():
        cfgs[tag] = replace(cfgs_by_tag(TIMM_PREFIX + donor)[tag], hf_hub_id=None, **sizes)
    if hub_user:  # published by our converter: the background class is already cut there
        cfgs = {
            tag: replace(cfg, hf_hub_id=f"{hub_user}/{PREFIX}{name}.{tag}", label_offset=None)
            for tag, cfg in cfgs.items()
        }
    return {tag: replace(cfg, url=None, architecture=None) for tag, cfg in cfgs.items()}


def find_cfg(name: str, tag: str) -> PretrainedCfg:
    """Return the cfg of one tag of a registered architecture.

    Raises:
        EffNetExtError: There is none; the message lists those that are.
    """
    cfgs = cfgs_by_tag(PREFIX + name)
    if tag not in cfgs:
        raise EffNetExtError(f"{PREFIX}{name} has no weights {tag!r}, only {', '.join(cfgs)}")
    return cfgs[tag]


default_cfgs = generate_default_cfgs(
    {
        f"{PREFIX}{name}.{tag}": cfg
        for name in ARCHS
        for tag, cfg in pretrained_cfgs(name, os.environ.get(HUB_ENV)).items()
    }
)

__all__: list[str] = []  # register_model adds the entry points


def _create(name: str, pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """Build architecture `name` as timm's `create_model` asks for it.

    Args:
        name: Row of `ARCHS`.
        pretrained: Load the weights that the pretrained cfg names, checked by `weights.check`.
        **kwargs: Arguments of `EfficientNet`, and those of timm's `build_model_with_cfg`.

    Raises:
        EffNetExtError: The weights could not be had.
        CheckpointFormatError: The weights are unreadable, damaged or another model's.
    """
    # Imported when a model is built: registering stays quick, and may happen while a module of ours imports timm.
    from timm_effnet_ext.models.efficientnet import EfficientNet
    from timm_effnet_ext.models.trunk import EfficientNetFeatures
    from timm_effnet_ext.weights.check import check_pretrained
    from timm_effnet_ext.weights.source import check_readable_checkpoint, explain_load_errors

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
    if pretrained and model_cls is EfficientNet and model.num_classes != model.pretrained_cfg["num_classes"]:
        model.reset_classifier(model.num_classes)  # for features that are trained, unlike all of a new model
    if model_cls is EfficientNetFeatures:
        cfg = {k: v for k, v in model.pretrained_cfg.items() if k not in ("num_classes", "classifier", "global_pool")}
        model.pretrained_cfg = model.default_cfg = cfg
    return model


def _entry_point(name: str) -> Callable[..., EfficientNet]:
    """Return the registered function that builds the architecture of a row, as timm has one for each model."""

    def entry_point(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
        return _create(name, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = PREFIX + name
    entry_point.__doc__ = f"Build {name}: its row in `timm_effnet_ext.arch.rows` says from which paper."
    return register_model(entry_point)


globals().update({PREFIX + name: _entry_point(name) for name in ARCHS})
