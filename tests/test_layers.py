"""The layers alone: SAME padding in both of its ways, SiLU that overwrites, the mean of squeeze-and-excitation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.closeness import FLOAT32, FLOAT64, assert_close
from timm_effnet_ext.layers import SiLU, SqueezeExcite, StridedSameConv2d


def same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return a stride-2 convolution by TensorFlow's definition of SAME, the input padded."""
    sizes = [max((-(-n // 2) - 1) * 2 + conv.kernel_size[0] - n, 0) for n in (x.shape[3], x.shape[2])]
    x = F.pad(x, [p for n in sizes for p in (n // 2, n - n // 2)])
    return F.conv2d(x, conv.weight, conv.bias, 2, 0, 1, conv.groups)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(16, 16), (15, 15), (16, 15), (15, 16)], ids=str)
@pytest.mark.parametrize(("out_chs", "groups"), [(4, 4), (8, 1), (16, 1), (24, 1)])
def test_strided_convolution_is_tensorflows(kernel: int, size: tuple[int, int], out_chs: int, groups: int) -> None:
    conv = StridedSameConv2d(4, out_chs, kernel, groups=groups).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    y, expected = conv(x), same(x, conv)
    assert y.shape == (2, out_chs, -(-size[0] // 2), -(-size[1] // 2))
    assert_close(y, expected, FLOAT64)
    weight = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((out * weight).sum(), [x, conv.weight]) for out in (y, expected))
    for grad, expected_grad in zip(ours, theirs, strict=True):
        assert_close(grad, expected_grad, FLOAT64)


class Copies(TorchDispatchMode):
    """Counts the elements that all but convolutions write into memory of their own."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if "convolution" not in str(func) and output.data_ptr() != args[0].data_ptr():
            self.elements += output.numel()
        return output


@pytest.mark.parametrize(("out_chs", "groups"), [(8, 8), (24, 1), (64, 1)])
def test_the_smaller_side_of_a_strided_convolution_is_copied(out_chs: int, groups: int) -> None:
    conv = StridedSameConv2d(8, out_chs, 3, groups=groups)
    x = torch.randn(1, 8, 64, 64)
    with Copies() as copies:
        y = conv(x)
    padded = 8 * 65 * 65
    assert copies.elements == min(y.numel(), padded)


def test_silu_overwrites_only_what_no_backward_needs() -> None:
    x = torch.randn(4, requires_grad=True)
    hidden = x + 0
    y = SiLU(inplace=True)(hidden)
    assert y.data_ptr() != hidden.data_ptr()
    assert torch.equal(y, F.silu(x))
    with torch.no_grad():
        hidden = x + 0
        assert SiLU(inplace=True)(hidden).data_ptr() == hidden.data_ptr()
        hidden = x + 0
        assert SiLU(inplace=False)(hidden).data_ptr() != hidden.data_ptr()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_squeeze_takes_the_mean(memory_format: torch.memory_format) -> None:
    se = SqueezeExcite(6, 2, nn.SiLU)
    x = torch.randn(2, 6, 9, 7).contiguous(memory_format=memory_format).requires_grad_()
    expected = x * se.scale(x.mean((2, 3), keepdim=True))
    ours = se(x)
    assert torch.equal(ours, expected)
    (grad,), (expected_grad,) = (torch.autograd.grad(y.square().sum(), x) for y in (ours, expected))
    assert_close(grad, expected_grad, FLOAT32)
