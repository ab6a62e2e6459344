"""The registry: one entry point per architecture, with pretrained cfgs derived from timm's own."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timm.models import PretrainedCfg, generate_default_cfgs, get_arch_pretrained_cfgs, register_model

from timm_effnet_ext.arch import ARCHS, PREFIX, TIMM_PREFIX
from timm_effnet_ext.errors import EffNetExtError

if TYPE_CHECKING:
    from timm_effnet_ext.model import EfficientNet

HUB_ENV = "TIMM_EFFNET_EXT_HUB"
"""A Hub user whose repositories `<user>/<model>.<tag>` replace timm's `timm/tf_*` ones."""

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
    cfgs = {tag: replace(cfg, url=None) for tag, cfg in cfgs_by_tag(TIMM_PREFIX + name).items()}
    sizes = next(iter(cfgs.values()))
    for tag, donor in _ABSENT_FROM_TIMM.get(name, {}).items():
        cfgs[tag] = replace(
            cfgs_by_tag(TIMM_PREFIX + donor)[tag],
            url=None,
            hf_hub_id=None,
            input_size=sizes.input_size,
            test_input_size=sizes.test_input_size,
            pool_size=sizes.pool_size,
            crop_pct=sizes.crop_pct,
        )
    if hub_user:  # published by our converter: the background class is already cut there
        cfgs = {
            tag: replace(cfg, hf_hub_id=f"{hub_user}/{PREFIX}{name}.{tag}", label_offset=None)
            for tag, cfg in cfgs.items()
        }
    return {tag: replace(cfg, architecture=None) for tag, cfg in cfgs.items()}


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


def _create(name: str, pretrained: bool, **kwargs: Any) -> EfficientNet:
    # Imported when a model is built: registering stays quick, and may happen while a module of ours imports timm.
    from timm_effnet_ext.create import create

    return create(name, pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b0(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0 (arXiv:1905.11946)."""
    return _create("efficientnet_b0", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b1(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B1 (arXiv:1905.11946)."""
    return _create("efficientnet_b1", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B2 (arXiv:1905.11946)."""
    return _create("efficientnet_b2", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b3(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B3 (arXiv:1905.11946)."""
    return _create("efficientnet_b3", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b4(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B4 (arXiv:1905.11946)."""
    return _create("efficientnet_b4", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b5(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B5 (arXiv:1905.11946)."""
    return _create("efficientnet_b5", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b6(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B6 (arXiv:1905.11946)."""
    return _create("efficientnet_b6", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b7(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B7 (arXiv:1905.11946)."""
    return _create("efficientnet_b7", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_b8(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B8 (arXiv:1911.09665)."""
    return _create("efficientnet_b8", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_l2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-L2 (arXiv:1911.04252)."""
    return _create("efficientnet_l2", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_b0(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-B0 (arXiv:2104.00298)."""
    return _create("efficientnetv2_b0", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_b1(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-B1 (arXiv:2104.00298)."""
    return _create("efficientnetv2_b1", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_b2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-B2 (arXiv:2104.00298)."""
    return _create("efficientnetv2_b2", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_b3(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-B3 (arXiv:2104.00298)."""
    return _create("efficientnetv2_b3", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_s(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-S (arXiv:2104.00298)."""
    return _create("efficientnetv2_s", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_m(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-M (arXiv:2104.00298)."""
    return _create("efficientnetv2_m", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_l(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-L (arXiv:2104.00298)."""
    return _create("efficientnetv2_l", pretrained, **kwargs)


@register_model
def hucorz_efficientnetv2_xl(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-XL (arXiv:2104.00298)."""
    return _create("efficientnetv2_xl", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite0 (tensorflow/tpu efficientnet/lite)."""
    return _create("efficientnet_lite0", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_lite1(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite1 (tensorflow/tpu efficientnet/lite)."""
    return _create("efficientnet_lite1", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_lite2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite2 (tensorflow/tpu efficientnet/lite)."""
    return _create("efficientnet_lite2", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_lite3(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite3 (tensorflow/tpu efficientnet/lite)."""
    return _create("efficientnet_lite3", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_lite4(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite4 (tensorflow/tpu efficientnet/lite)."""
    return _create("efficientnet_lite4", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_es(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-EdgeTPU-S (tensorflow/tpu efficientnet/edgetpu)."""
    return _create("efficientnet_es", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_em(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-EdgeTPU-M (tensorflow/tpu efficientnet/edgetpu)."""
    return _create("efficientnet_em", pretrained, **kwargs)


@register_model
def hucorz_efficientnet_el(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-EdgeTPU-L (tensorflow/tpu efficientnet/edgetpu)."""
    return _create("efficientnet_el", pretrained, **kwargs)
