"""The names of layers in files of keras.applications, by what the layers do: data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from timm_effnet_ext.arch.layout import LayerKind, Role
from timm_effnet_ext.arch.names import PYTORCH
from timm_effnet_ext.arch.rows import LITE, Arch
from timm_effnet_ext.convert.dialects.dialect import HWCM_TO_CMHW, MB, Dialect, Leaf, Names
from timm_effnet_ext.convert.dialects.preparation import IMAGENET, Prepared, by_google
from timm_effnet_ext.convert.dialects.tensorflow import TF_LEAVES

# The variables of Normalization layers are preprocessing and have no place in a network.
_PREPROCESSING = ("*/mean", "*/variance", "*/count")
_KERAS3_LEAVES: Mapping[LayerKind, tuple[Leaf, ...]] = {
    **TF_LEAVES,
    "depthwise": (Leaf("weight", "kernel", HWCM_TO_CMHW),),
}

# Layer names: keras/src/applications/efficientnet.py, efficientnet_v2.py.
_V1: Mapping[Role, Names] = {
    "stem": ("stem_conv", "stem_bn"),
    "expand": ("expand_conv", "expand_bn"),
    "depthwise": ("dwconv", "bn"),
    "se": ("se_reduce", "se_expand"),
    "project": ("project_conv", "project_bn"),
    "head": ("top_conv", "top_bn"),
    "classifier": ("predictions",),
}
_V2: Mapping[Role, Names] = {**_V1, "depthwise": ("dwconv2", "bn")}


def _kecam_numerics(arch: Arch) -> Mapping[str, Any]:
    """Return SiLU, which its Lite has as well, and for EfficientNetV2T PyTorch's padding and epsilon.

    The second comes from timm (`is_torch_mode`).
    """
    is_v2_t = arch.name == "efficientnetv2_s" and (arch.width, arch.depth) == (0.8, 0.9)
    return {"act_layer": "silu", **(PYTORCH if is_v2_t else {})}


def _pytorch_numerics(arch: Arch) -> Mapping[str, Any]:
    """Return PyTorch's padding, and the epsilon that a backbone of KerasHub has by itself."""
    return PYTORCH


def _by_imagenet(arch: Arch) -> Prepared:
    """Return Google's preparation, with the mean and standard deviation of ImageNet for Lite too."""
    whose, cfg = by_google(arch)
    return Prepared(whose, {**cfg, "mean": IMAGENET[0], "std": IMAGENET[1]} if arch.stages == LITE else cfg)


_EPS = 1e-3  # BatchNormalization's own: keras/src/layers/normalization/batch_normalization.py
_Named = partial(Dialect, block="block{stage1}{letter}_", source_only=_PREPROCESSING, head_eps=_EPS)
KERAS2_V1 = _Named(name="keras2_v1", leaves=TF_LEAVES, names=_V1)
KERAS2_V2 = _Named(name="keras2_v2", leaves=TF_LEAVES, names=_V2)
KERAS3_V1 = _Named(name="keras3_v1", leaves=_KERAS3_LEAVES, names=_V1)
KERAS3_V2 = _Named(name="keras3_v2", leaves=_KERAS3_LEAVES, names=_V2)

# leondgarse/keras_efficientnet_v2 efficientnet_v2.py, and efficientnet/ of leondgarse/keras_cv_attention_models
KECAM2 = Dialect(
    name="kecam2",
    leaves=TF_LEAVES,
    source_only=_PREPROCESSING,
    head_eps=_EPS,
    numerics=_kecam_numerics,
    preparation=_by_imagenet,
    block="stack_{stage}_block{block}_",
    names={
        "stem": ("stem_conv", "stem_bn"),
        "expand": ("sortcut_conv", "sortcut_bn"),
        "depthwise": ("MB_dw_", "MB_dw_bn"),
        "se": ("se_1_conv", "se_2_conv"),
        "project": ("MB_pw_conv", "MB_pw_bn"),
        "head": ("post_conv", "post_bn"),
        "classifier": ("predictions",),
    },
    other={("fused", False): {"project": ("fu_conv", "fu_bn")}},
)
KECAM3 = replace(KECAM2, name="kecam3", leaves=_KERAS3_LEAVES)

# keras-team/keras-hub keras_hub/src/models/efficientnet/efficientnet_backbone.py: the blocks of v1 alone, as V2's are
# padded in both ways within one network.
KERASHUB = _Named(
    name="kerashub",
    note="its epsilon stands in its config; where only weights are there, 1e-5 was assumed, as it has by itself",
    leaves=_KERAS3_LEAVES,
    numerics=_pytorch_numerics,
    preparation=_by_imagenet,
    kinds=MB,
    names={**_V1, "depthwise": ("dwconv", "dwconv_bn"), "project": ("project", "project_bn")},
)

# A .weights.h5 before Keras 3.15 knows no layer's name, only its class and how many of that class came before it:
# keras/src/saving/saving_lib.py.
_CONV, _DEPTHWISE, _NORM = "conv2d{nth}", "depthwise_conv2d{nth}", "batch_normalization{nth}"
KERAS_COUNTED = Dialect(
    name="keras_counted",
    note="the file numbers its layers: padding, epsilon and activation were assumed to be those of keras.applications",
    leaves=_KERAS3_LEAVES,
    source_only=_PREPROCESSING,
    head_eps=_EPS,
    block="",
    names={
        "stem": (_CONV, _NORM),
        "expand": (_CONV, _NORM),
        "depthwise": (_DEPTHWISE, _NORM),
        "se": (_CONV, _CONV),
        "project": (_CONV, _NORM),
        "head": (_CONV, _NORM),
        "classifier": ("predictions",),
    },
)

KERAS_DIALECTS = (KERAS2_V1, KERAS2_V2, KERAS3_V1, KERAS3_V2, KECAM2, KECAM3, KERASHUB, KERAS_COUNTED)
