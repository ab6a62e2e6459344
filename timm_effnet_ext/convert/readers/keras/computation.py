"""What each layer of a Keras model computes at inference, with torch, from its settings and weights.

Keras' semantics: channels last in files, here first; SAME padding by TensorFlow's rule.
Source: keras/src/layers, keras/src/ops and keras/src/backend/tensorflow/nn.py.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from timm_effnet_ext.convert.checkpoint.affine import Affine
from timm_effnet_ext.convert.readers.keras.front import IDENTITY, normalization, numbers, rescaling
from timm_effnet_ext.convert.readers.keras.layer_graph import Node
from timm_effnet_ext.convert.readers.keras.weights import Weights
from timm_effnet_ext.errors import CheckpointFormatError, NameMappingError, VerificationError

if TYPE_CHECKING:
    from torch import Tensor

Layer = Callable[[Node, Weights, "list[Tensor]"], "Tensor"]


def _scaling(affine: Callable[[Node, Weights], Affine]) -> Layer:
    """Return the layer of one of those that stand in front of a network."""

    def layer(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
        import torch

        scale, offset = (
            torch.from_numpy(values.astype(np.float64)).reshape(1, -1, 1, 1) for values in affine(node, weights)
        )
        return inputs[0] * scale + offset

    return layer


def _zero_padding(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    import torch.nn.functional as F

    (top, bottom), (left, right) = node.config["padding"]
    return F.pad(inputs[0], (left, right, top, bottom))


def _conv(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    return _convolve(node, weights, inputs[0], _tensor(node, weights, "kernel").permute(3, 2, 0, 1), 1)


def _depthwise(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    name = "depthwise_kernel" if "depthwise_kernel" in weights else "kernel"
    kernel = _tensor(node, weights, name)
    height, width, channels, multiplier = kernel.shape
    # Channel c gives the outputs c * multiplier and those behind it.
    kernel = kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    return _convolve(node, weights, inputs[0], kernel, channels)


def _convolve(node: Node, weights: Weights, x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    import torch.nn.functional as F

    strides, dilation = node.config["strides"], node.config["dilation_rate"]
    if node.config.get("data_format") != "channels_last" or node.config.get("groups", 1) != 1:
        raise NameMappingError(f"layer {node.name!r} has groups or channels first, which is not supported")
    if node.config["padding"] == "same":
        pads: list[int] = []
        for size, k, s, d in zip(x.shape[2:], kernel.shape[2:], strides, dilation, strict=True):
            total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            pads = [total // 2, total - total // 2, *pads]  # F.pad starts with the last axis
        x = F.pad(x, pads)
    bias = _tensor(node, weights, "bias") if node.config["use_bias"] else None
    return F.conv2d(x, kernel, bias, tuple(strides), 0, tuple(dilation), groups)


def _batch_norm(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    import torch.nn.functional as F

    mean, variance = (_tensor(node, weights, name) for name in ("moving_mean", "moving_variance"))
    gamma = _tensor(node, weights, "gamma") if node.config["scale"] else None
    beta = _tensor(node, weights, "beta") if node.config["center"] else None
    return F.batch_norm(inputs[0], mean, variance, gamma, beta, eps=node.config["epsilon"])


def _average(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    return inputs[0].mean((2, 3), keepdim=node.config.get("keepdims", False))


def _maximum(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    return inputs[0].amax((2, 3), keepdim=node.config.get("keepdims", False))


def _reshape(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    (x,) = inputs
    height, width, channels = node.config["target_shape"]  # all that squeeze-and-excitation needs
    if x.ndim != 2 or (height, width) != (1, 1):
        raise NameMappingError(f"layer {node.name!r} reshapes {tuple(x.shape)} to {node.config['target_shape']}")
    return x.reshape(len(x), channels, 1, 1)


def _flatten(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    return inputs[0].permute(0, 2, 3, 1).flatten(1) if inputs[0].ndim == 4 else inputs[0]


def _operator(operate: Callable[[Tensor, Tensor], Tensor]) -> Layer:
    """Return the layer of an operator on two tensors, one of which may be a constant."""

    def layer(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
        import torch

        waiting = iter(inputs)
        shape = (1, -1, 1, 1) if inputs[0].ndim == 4 else (1, -1)
        given = [None if value is None else numbers(node, "a constant", value) for value in node.operands]
        one, two = (next(waiting) if value is None else torch.from_numpy(value).reshape(shape) for value in given)
        return operate(one, two)

    return layer


def _mean(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    axes, (x,) = node.config.get("axis"), inputs
    if axes not in ([1, 2], [-3, -2]) or x.ndim != 4:
        raise NameMappingError(f"layer {node.name!r} averages over axis {axes}, expected height and width")
    return _average(node, weights, inputs)


def _dense(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    out = inputs[0] @ _tensor(node, weights, "kernel")
    return out + _tensor(node, weights, "bias") if node.config["use_bias"] else out


def _resizing(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    (x,) = inputs
    wanted = (node.config["height"], node.config["width"])
    if tuple(x.shape[2:]) != wanted:
        raise VerificationError(
            f"layer {node.name!r} resizes {tuple(x.shape[2:])} to {wanted}: give images of that size"
        )
    return x


def _identity(node: Node, weights: Weights, inputs: list[Tensor]) -> Tensor:
    (x,) = inputs
    return x


LAYERS: Mapping[str, Layer] = {
    "Rescaling": _scaling(rescaling),
    "Normalization": _scaling(normalization),
    "ZeroPadding2D": _zero_padding,
    "Conv2D": _conv,
    "DepthwiseConv2D": _depthwise,
    "BatchNormalization": _batch_norm,
    "GlobalAveragePooling2D": _average,
    "GlobalMaxPooling2D": _maximum,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Add": _operator(operator.add),
    "Subtract": _operator(operator.sub),
    "Multiply": _operator(operator.mul),
    "Divide": _operator(operator.truediv),
    "TrueDivide": _operator(operator.truediv),
    "Negative": lambda node, weights, inputs: -inputs[0],
    "Cast": _identity,
    "Mean": _mean,
    "Dense": _dense,
    "Resizing": _resizing,
    "Activation": _identity,  # each layer's `activation` is applied to what it gives
    "Softmax": _identity,  # `head` allows it at the end only, behind the logits
    **dict.fromkeys(IDENTITY, _identity),
}


def activated(node: Node, x: Tensor) -> Tensor:
    """Apply a layer's own activation, if it has one."""
    import torch
    import torch.nn.functional as F

    known: dict[str | None, Callable[[Tensor], Tensor]] = {
        None: lambda x: x, "linear": lambda x: x, "swish": F.silu, "silu": F.silu, "relu": F.relu, "relu6": F.relu6,
        "gelu": F.gelu, "sigmoid": torch.sigmoid, "softmax": lambda x: x.softmax(1),
    }  # fmt: skip
    setting = node.config.get("activation")
    if not isinstance(setting, str | None) or setting not in known:
        names = ", ".join(sorted(name for name in known if name))
        raise NameMappingError(f"layer {node.name!r} has the activation {setting!r}, supported are {names}")
    return known[setting](x)


def _tensor(node: Node, weights: Weights, name: str) -> Tensor:
    import torch

    if name not in weights:
        raise CheckpointFormatError(f"layer {node.name!r} has no {name!r} in the file, found {sorted(weights)}")
    return torch.from_numpy(weights[name].read().astype(np.float64))
