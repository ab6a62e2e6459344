"""How lean training convolves: with or without the routing of a CondConv, and the gradients of either."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from timm_effnet_ext.models.layers import StridedSameConv2d


def convolve(conv: Any, x: Tensor, routing: Tensor | None) -> Tensor:
    """Return what `conv` makes of `x`; `routing` is None where it is no CondConv."""
    return conv(x) if routing is None else conv(x, routing)


def convolve_leanly(conv: Any, x: Tensor, routing: Tensor | None) -> Tensor:
    """Return the same of a known convolution, for which a CondConv does not keep the kernels that it mixes."""
    if routing is None:
        return conv(x)
    return _CondConv.apply(conv, x, routing, conv.weight)  # type: ignore[no-any-return]


def conv_gradients(
    conv: Any, d_out: Tensor, x: Tensor, routing: Tensor | None, weight: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of a known convolution's input, routing and weight."""
    if routing is not None:
        return conv.gradients(d_out, x, routing, weight)  # type: ignore[no-any-return]
    padding = conv.padding
    if type(conv) is StridedSameConv2d:
        rows, cols = conv.surplus(x)
        padding = [conv.margin[0] + rows, conv.margin[1] + cols]
        d_out = F.pad(d_out, [cols, 0, rows, 0])
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        d_out, x.to(d_out.dtype), weight.to(d_out.dtype), None,
        conv.stride, padding, conv.dilation, False, [0, 0], conv.groups, [True, needs_weight, False],
    )  # fmt: skip
    return d_x.to(x.dtype), None, d_weight


def autocast_like_now(device_type: str) -> Any:
    """Return the autocast that is on, or none, as the context of what an autograd function computes."""
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    # No cache: a copy of a weight made without autograd must not meet eager code.
    return torch.autocast(device_type, dtype=torch.get_autocast_dtype(device_type), cache_enabled=False)


class _CondConv(Function):
    """(image, routing, weight) -> output of a CondConv; what it is given is kept, and the kernels are mixed again."""

    @staticmethod
    def forward(ctx, conv, x, routing, weight):  # type: ignore[no-untyped-def]
        ctx.conv = conv
        ctx.save_for_backward(x, routing, weight)
        with autocast_like_now(x.device.type):
            return conv(x, routing)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):  # type: ignore[no-untyped-def]
        return None, *ctx.conv.gradients(d_out, *ctx.saved_tensors)
