"""The name of every layer in files of keras.applications, a table for each dialect: rows only."""

from __future__ import annotations

from collections.abc import Mapping

from timm_effnet_ext.convert.dialects.dialect import HWCM_TO_CMHW, BlockKind, Dialect, Leaf, Rule
from timm_effnet_ext.convert.dialects.tensorflow import TF_LEAVES
from timm_effnet_ext.layout import LayerKind

# The variables of Normalization layers are preprocessing and have no place in a network.
_PREPROCESSING = ("*/mean", "*/variance", "*/count")
_KERAS3_LEAVES: Mapping[LayerKind, tuple[Leaf, ...]] = {
    **TF_LEAVES,
    "depthwise": (Leaf("weight", "kernel", HWCM_TO_CMHW),),
}
_ENDS = (
    Rule("conv_stem", "stem_conv"), Rule("bn1", "stem_bn"),
    Rule("conv_head", "top_conv"), Rule("bn2", "top_bn"),
    Rule("classifier", "predictions"),
)  # fmt: skip
_SE = (Rule("se.conv_reduce", "se_reduce"), Rule("se.conv_expand", "se_expand"))


def _blocks(dwconv: str) -> Mapping[BlockKind, tuple[Rule, ...]]:
    """Return the rules of all kinds of blocks; v1 and v2 name the depthwise convolution differently."""
    return {
        ("mb", True): (
            Rule("conv_pw", "expand_conv"), Rule("bn1", "expand_bn"),
            Rule("conv_dw", dwconv), Rule("bn2", "bn"),
            *_SE,
            Rule("conv_pwl", "project_conv"), Rule("bn3", "project_bn"),
        ),
        ("mb", False): (
            Rule("conv_dw", dwconv), Rule("bn1", "bn"),
            *_SE,
            Rule("conv_pw", "project_conv"), Rule("bn2", "project_bn"),
        ),
        ("fused", True): (
            Rule("conv_exp", "expand_conv"), Rule("bn1", "expand_bn"),
            *_SE,
            Rule("conv_pwl", "project_conv"), Rule("bn2", "project_bn"),
        ),
        ("fused", False): (Rule("conv", "project_conv"), Rule("bn1", "project_bn")),
    }  # fmt: skip


def _named(name: str, leaves: Mapping[LayerKind, tuple[Leaf, ...]], dwconv: str) -> Dialect:
    """Return the dialect of files that store the layers' own names."""
    return Dialect(
        name=name,
        leaves=leaves,
        ends=_ENDS,
        block="block{stage1}{letter}_",
        blocks=_blocks(dwconv),
        source_only=_PREPROCESSING,
    )


# Layer names: keras/src/applications/efficientnet.py, efficientnet_v2.py.
KERAS2_V1 = _named("keras2_v1", TF_LEAVES, "dwconv")
KERAS2_V2 = _named("keras2_v2", TF_LEAVES, "dwconv2")
KERAS3_V1 = _named("keras3_v1", _KERAS3_LEAVES, "dwconv")
KERAS3_V2 = _named("keras3_v2", _KERAS3_LEAVES, "dwconv2")

# A .weights.h5 before Keras 3.15 knows no layer's name, only its class and how many of that class came before it:
# keras/src/saving/saving_lib.py.
_CONV, _DEPTHWISE, _NORM = "conv2d{nth}", "depthwise_conv2d{nth}", "batch_normalization{nth}"
_COUNTED_SE = (Rule("se.conv_reduce", _CONV), Rule("se.conv_expand", _CONV))
KERAS_COUNTED = Dialect(
    name="keras_counted",
    leaves=_KERAS3_LEAVES,
    ends=(
        Rule("conv_stem", _CONV), Rule("bn1", _NORM),
        Rule("conv_head", _CONV), Rule("bn2", _NORM),
        Rule("classifier", "predictions"),
    ),
    block="",
    blocks={
        ("mb", True): (
            Rule("conv_pw", _CONV), Rule("bn1", _NORM),
            Rule("conv_dw", _DEPTHWISE), Rule("bn2", _NORM),
            *_COUNTED_SE,
            Rule("conv_pwl", _CONV), Rule("bn3", _NORM),
        ),
        ("mb", False): (
            Rule("conv_dw", _DEPTHWISE), Rule("bn1", _NORM),
            *_COUNTED_SE,
            Rule("conv_pw", _CONV), Rule("bn2", _NORM),
        ),
        ("fused", True): (
            Rule("conv_exp", _CONV), Rule("bn1", _NORM),
            *_COUNTED_SE,
            Rule("conv_pwl", _CONV), Rule("bn2", _NORM),
        ),
        ("fused", False): (Rule("conv", _CONV), Rule("bn1", _NORM)),
    },
    source_only=_PREPROCESSING,
)  # fmt: skip

KERAS_DIALECTS = (KERAS2_V1, KERAS2_V2, KERAS3_V1, KERAS3_V2, KERAS_COUNTED)
