"""The TensorFlow names of layers in checkpoints of Google's code, by what the layers do: data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from timm_effnet_ext.arch.layout import LayerKind
from timm_effnet_ext.convert.dialects.dialect import (
    COND,
    FUSED,
    HWCM_TO_CMHW,
    HWIO_TO_OIHW,
    IO_TO_OI,
    MB,
    Dialect,
    Leaf,
)

BN_LEAVES = (
    Leaf("weight", "gamma"),
    Leaf("bias", "beta"),
    Leaf("running_mean", "moving_mean"),
    Leaf("running_var", "moving_variance"),
)
TF_LEAVES: Mapping[LayerKind, tuple[Leaf, ...]] = {
    "conv": (Leaf("weight", "kernel", HWIO_TO_OIHW), Leaf("bias", "bias")),
    "depthwise": (Leaf("weight", "depthwise_kernel", HWCM_TO_CMHW),),
    "condconv": (Leaf("weight", "condconv_kernel", HWIO_TO_OIHW),),
    "depthwise_condconv": (Leaf("weight", "depthwise_condconv_kernel", HWCM_TO_CMHW),),
    "norm": BN_LEAVES,
    "linear": (Leaf("weight", "kernel", IO_TO_OI), Leaf("bias", "bias")),
}


def _keras_layers(before: int) -> Mapping[str, str]:
    """Return how Keras, which counts layers through the whole graph, numbers the CondConvs of a block.

    Source: tensorflow/tpu efficientnet_model.py `MBConvBlock._build`, which makes a `_fused_conv` that it never calls.
    """
    made = 3 * before
    return {"expand": f"_{made + 1}", "depthwise": f"_{before}" if before else "", "project": f"_{made + 2}"}


# Variables of tensorflow/tpu efficientnet and of published google/automl efficientnetv2 checkpoints. Layers of one type
# are numbered in their order of creation within a scope: tensorflow/tpu efficientnet_model.py, google/automl
# efficientnetv2/effnetv2_model.py (`_build` of MBConvBlock, MBConvBlockWithoutDepthwise, FusedMBConvBlock). CondConvs
# are layers of Keras, whose variables stand in the scope of names, below that of the model, and not in the scope of
# variables: the same from TensorFlow 1.15 and 2.15.
_NORM = "blocks_{flat}/tpu_batch_normalization{nth}"
TF1 = Dialect(
    name="tf1",
    leaves=TF_LEAVES,
    block="",
    kinds=MB | FUSED | COND,
    alike=_keras_layers,
    names={
        "stem": ("stem/conv2d", "stem/tpu_batch_normalization"),
        "routing": ("blocks_{flat}/dense",),
        "expand": ("blocks_{flat}/conv2d{nth}", _NORM),
        "depthwise": ("blocks_{flat}/depthwise_conv2d", _NORM),
        "se": ("blocks_{flat}/se/conv2d", "blocks_{flat}/se/conv2d_1"),
        "project": ("blocks_{flat}/conv2d{nth}", _NORM),
        "head": ("head/conv2d", "head/tpu_batch_normalization"),
        "classifier": ("head/dense",),
    },
    other={
        ("cond", True): {
            "expand": ("model/blocks_{flat}/cond_conv2d{expand}", _NORM),
            "depthwise": ("model/blocks_{flat}/depthwise_cond_conv2d{depthwise}", _NORM),
            "project": ("model/blocks_{flat}/cond_conv2d{project}", _NORM),
        }
    },
)

# Graph mode of google/automl efficientnetv2, whose head opens its scope a second time for the classifier.
TF1_HEAD_1 = replace(TF1, name="tf1_head_1", names={**TF1.names, "classifier": ("head_1/dense",)})

# Attribute paths, numbered by what a layer does: google/automl efficientnetv2/effnetv2_model.py. Used where the object
# graph of a TF2 checkpoint does not know the variables' names.
TF2_OBJECT = Dialect(
    name="tf2_object",
    leaves=TF_LEAVES,
    block="_blocks/{flat}/",
    names={
        "stem": ("_stem/_conv_stem", "_stem/_norm"),
        "expand": ("_expand_conv", "_norm0"),
        "depthwise": ("_depthwise_conv", "_norm1"),
        "se": ("_se/_se_reduce", "_se/_se_expand"),
        "project": ("_project_conv", "_norm2"),
        "head": ("_head/_conv_head", "_head/_norm"),
        "classifier": ("_fc",),
    },
    other={kind: {"project": ("_project_conv", "_norm1")} for kind in FUSED},
)

TF_DIALECTS = (TF1, TF1_HEAD_1, TF2_OBJECT)
