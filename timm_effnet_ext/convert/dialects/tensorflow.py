"""The TensorFlow name of every layer in checkpoints of Google's code, a table for each dialect: rows only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from timm_effnet_ext.convert.dialects.dialect import HWCM_TO_CMHW, HWIO_TO_OIHW, IO_TO_OI, Dialect, Leaf, Rule
from timm_effnet_ext.layout import LayerKind

BN_LEAVES = (
    Leaf("weight", "gamma"),
    Leaf("bias", "beta"),
    Leaf("running_mean", "moving_mean"),
    Leaf("running_var", "moving_variance"),
)
TF_LEAVES: Mapping[LayerKind, tuple[Leaf, ...]] = {
    "conv": (Leaf("weight", "kernel", HWIO_TO_OIHW), Leaf("bias", "bias")),
    "depthwise": (Leaf("weight", "depthwise_kernel", HWCM_TO_CMHW),),
    "norm": BN_LEAVES,
    "linear": (Leaf("weight", "kernel", IO_TO_OI), Leaf("bias", "bias")),
}

# Variables of tensorflow/tpu efficientnet and of published google/automl efficientnetv2 checkpoints. Layers of one type
# are numbered in their order of creation within a block, so a block without expansion is another row and not an offset:
# tensorflow/tpu efficientnet_model.py, google/automl efficientnetv2/effnetv2_model.py (`_build` of MBConvBlock,
# MBConvBlockWithoutDepthwise, FusedMBConvBlock).
_TF1_SE = (Rule("se.conv_reduce", "se/conv2d"), Rule("se.conv_expand", "se/conv2d_1"))
TF1 = Dialect(
    name="tf1",
    leaves=TF_LEAVES,
    ends=(
        Rule("conv_stem", "stem/conv2d"), Rule("bn1", "stem/tpu_batch_normalization"),
        Rule("conv_head", "head/conv2d"), Rule("bn2", "head/tpu_batch_normalization"),
        Rule("classifier", "head/dense"),
    ),
    block="blocks_{flat}/",
    blocks={
        ("mb", True): (
            Rule("conv_pw", "conv2d"), Rule("bn1", "tpu_batch_normalization"),
            Rule("conv_dw", "depthwise_conv2d"), Rule("bn2", "tpu_batch_normalization_1"),
            *_TF1_SE,
            Rule("conv_pwl", "conv2d_1"), Rule("bn3", "tpu_batch_normalization_2"),
        ),
        ("mb", False): (
            Rule("conv_dw", "depthwise_conv2d"), Rule("bn1", "tpu_batch_normalization"),
            *_TF1_SE,
            Rule("conv_pw", "conv2d"), Rule("bn2", "tpu_batch_normalization_1"),
        ),
        ("fused", True): (
            Rule("conv_exp", "conv2d"), Rule("bn1", "tpu_batch_normalization"),
            *_TF1_SE,
            Rule("conv_pwl", "conv2d_1"), Rule("bn2", "tpu_batch_normalization_1"),
        ),
        ("fused", False): (Rule("conv", "conv2d"), Rule("bn1", "tpu_batch_normalization")),
    },
)  # fmt: skip

# Graph mode of google/automl efficientnetv2, whose head opens its scope a second time for the classifier.
TF1_HEAD_1 = replace(
    TF1,
    name="tf1_head_1",
    ends=(*TF1.ends[:-1], Rule("classifier", "head_1/dense")),
)

# Attribute paths, numbered by what a layer does: google/automl efficientnetv2/effnetv2_model.py. Used where the object
# graph of a TF2 checkpoint does not know the variables' names.
_TF2_SE = (Rule("se.conv_reduce", "_se/_se_reduce"), Rule("se.conv_expand", "_se/_se_expand"))
TF2_OBJECT = Dialect(
    name="tf2_object",
    leaves=TF_LEAVES,
    ends=(
        Rule("conv_stem", "_stem/_conv_stem"), Rule("bn1", "_stem/_norm"),
        Rule("conv_head", "_head/_conv_head"), Rule("bn2", "_head/_norm"),
        Rule("classifier", "_fc"),
    ),
    block="_blocks/{flat}/",
    blocks={
        ("mb", True): (
            Rule("conv_pw", "_expand_conv"), Rule("bn1", "_norm0"),
            Rule("conv_dw", "_depthwise_conv"), Rule("bn2", "_norm1"),
            *_TF2_SE,
            Rule("conv_pwl", "_project_conv"), Rule("bn3", "_norm2"),
        ),
        ("mb", False): (
            Rule("conv_dw", "_depthwise_conv"), Rule("bn1", "_norm1"),
            *_TF2_SE,
            Rule("conv_pw", "_project_conv"), Rule("bn2", "_norm2"),
        ),
        ("fused", True): (
            Rule("conv_exp", "_expand_conv"), Rule("bn1", "_norm0"),
            *_TF2_SE,
            Rule("conv_pwl", "_project_conv"), Rule("bn2", "_norm1"),
        ),
        ("fused", False): (Rule("conv", "_project_conv"), Rule("bn1", "_norm1")),
    },
)  # fmt: skip

TF_DIALECTS = (TF1, TF1_HEAD_1, TF2_OBJECT)
