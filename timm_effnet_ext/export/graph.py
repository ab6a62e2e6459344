"""A model as a recorded graph for every batch and size, TensorFlow's padding an attribute of ONNX's convolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.onnx import ONNXProgram

from timm_effnet_ext.files.hub_format import Activation
from timm_effnet_ext.models.fold import optimize_for_inference
from timm_effnet_ext.models.layers import StridedSameConv2d
from timm_effnet_ext.predict.onnx_file import IMAGE

MIN_SIDE = 33
"""Pixels, the smallest height and width of a graph for every size: below, the last features are a single pixel."""

_OPSET = 18  # torch's exporter writes no older one
_MODULE = "namespace"  # where torch's exporter says of which module a node is
_BATCH, _SIDE = 2, 96  # of the images that a graph for every size is recorded with


def for_inference(model: nn.Module) -> nn.Module:
    """Return a copy of a timm model in eval mode, BatchNorm folded where it is ours."""
    folded = optimize_for_inference(model) if hasattr(model, "set_lean_training") else copy.deepcopy(model).eval()
    return folded.to(memory_format=torch.contiguous_format).requires_grad_(False)


class FromPixels(nn.Module):
    """Images of 0 … 255 -> probabilities: (B, C, H, W) -> (B, classes)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], activation: Activation) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", 1 / (255 * torch.tensor(std, dtype=torch.float64)).view(-1, 1, 1))
        self.register_buffer("shift", -(torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1))
        self.activation = activation
        self.to(torch.float32).eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.model(image * self.scale + self.shift)
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(-1)


def to_onnx(model: nn.Module, channels: int, size: tuple[int, int] | None, output: str, batch: int = 1) -> ONNXProgram:
    """Record a model of `for_inference` as an ONNX graph with weights in float32.

    Args:
        channels: Of the images.
        size: Height and width of the images that the graph is for; None for every batch and size.
        output: The name of what the graph gives; it takes `IMAGE`.
        batch: How many images the graph of one size is for.
    """
    with_attribute = copy.deepcopy(model)
    for owner in list(with_attribute.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, nn.Conv2d) and type(child) in (StridedSameConv2d, Conv2dSame):
                setattr(owner, name, _SameInOnnx(child))
    image, dims = _example(channels, size, batch)
    program = torch.onnx.export(
        with_attribute, (image,), dynamo=True, verbose=False, opset_version=_OPSET,
        input_names=[IMAGE], output_names=[output], dynamic_shapes=dims,
    )  # fmt: skip
    assert program is not None  # it is None for a file alone
    for node in program.model.graph:
        for key in [key for key in node.metadata_props if key != _MODULE]:  # such as paths of this machine's files
            del node.metadata_props[key]
    return program


def to_program(model: nn.Module, channels: int, size: tuple[int, int] | None) -> ExportedProgram:
    """Record a model of `for_inference` as a program of torch.export; arguments as for `to_onnx`."""
    image, dims = _example(channels, size)
    program = torch.export.export(model, (image,), dynamic_shapes=dims)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with paths of this machine's files
    return program


def _example(channels: int, size: tuple[int, int] | None, batch: int = 1) -> tuple[Tensor, Any]:
    """Return what to record with: images, and which of their dimensions are free."""
    if size is not None:
        return torch.zeros(batch, channels, *size), None
    free = {0: Dim("batch"), 2: Dim("height", min=MIN_SIDE), 3: Dim("width", min=MIN_SIDE)}
    return torch.zeros(_BATCH, channels, _SIDE, _SIDE + 16), (free,)


class _SameInOnnx(nn.Module):
    """TensorFlow's SAME convolution, which ONNX has as an attribute: no padding is computed from the size.

    Source: github.com/onnx/onnx docs/Operators.md, Conv, auto_pad.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.stride = conv.weight, conv.bias, conv.stride
        self.attributes: dict[str, Any] = {
            "auto_pad": "SAME_UPPER",
            "kernel_shape": list(conv.kernel_size),
            "strides": list(conv.stride),
            "dilations": list(conv.dilation),
            "group": conv.groups,
        }

    def forward(self, x: Tensor) -> Tensor:
        inputs = [x, self.weight] if self.bias is None else [x, self.weight, self.bias]
        rows, cols = ((n + step - 1) // step for n, step in zip(x.shape[2:], self.stride, strict=True))
        shape = (x.shape[0], self.weight.shape[0], rows, cols)
        return torch.onnx.ops.symbolic("Conv", inputs, self.attributes, dtype=x.dtype, shape=shape, version=_OPSET)
