"""The layers alone: SAME padding in all of its ways, SiLU that overwrites, the mean of squeeze-and-excitation."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.closeness import FLOAT32, FLOAT64, assert_close
from timm_effnet_ext.models.layers import SiLU, SqueezeExcite, StridedSameConv2d


def same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return a stride-2 convolution by TensorFlow's definition of SAME, the input padded."""
    sizes = [max((-(-n // 2) - 1) * 2 + conv.kernel_size[0] - n, 0) for n in (x.shape[3], x.shape[2])]
    x = F.pad(x, [p for n in sizes for p in (n // 2, n - n // 2)])
    return F.conv2d(x, conv.weight, conv.bias, 2, 0, 1, conv.groups)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(16, 16), (15, 15), (16, 15), (15, 16)], ids=str)
@pytest.mark.parametrize(("out_chs", "groups"), [(4, 4), (8, 1), (16, 1), (24, 1)])
def test_strided_convolution_is_tensorflows(kernel: int, size: tuple[int, int], out_chs: int, groups: int) -> None:
    conv = StridedSameConv2d(4, out_chs, kernel, 2, groups=groups).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    y, expected = conv(x), same(x, conv)
    assert y.shape == (2, out_chs, -(-size[0] // 2), -(-size[1] // 2))
    assert_close(y, expected, FLOAT64)
    weight = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((out * weight).sum(), [x, conv.weight]) for out in (y, expected))
    for grad, expected_grad in zip(ours, theirs, strict=True):
        assert_close(grad, expected_grad, FLOAT64)


class Pads(TorchDispatchMode):
    """Counts the elements that padding copies."""

    copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.copied += out.numel() if func is torch.ops.aten.constant_pad_nd.default else 0
        return out


@pytest.mark.parametrize(
    ("out_chs", "groups", "size", "copied"),
    [
        (8, 8, 16, 8 * 8 * 8),  # the output
        (24, 1, 16, 24 * 8 * 8),
        (32, 1, 16, 8 * 17 * 17),  # the input
        (8, 8, 15, 0),
        (32, 1, 15, 0),
    ],
)
def test_the_smaller_side_of_a_strided_convolution_is_copied(out_chs: int, groups: int, size: int, copied: int) -> None:
    with torch.no_grad(), Pads() as pads:
        StridedSameConv2d(8, out_chs, 3, 2, groups=groups)(torch.ones(1, 8, size, size))
    assert pads.copied == copied


@pytest.mark.parametrize("size", [(2, 4, 15, 16), (4, 16, 15)], ids=str)  # the second without a batch
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(kernel_size=(3, 5), stride=2),
        dict(kernel_size=3, stride=(2, 2), dilation=2),
        dict(kernel_size=4, stride=2),
        dict(kernel_size=3, stride=3),
        dict(kernel_size=(1, 3), stride=(1, 2), bias=False),
        dict(kernel_size=1, groups=2),
        dict(kernel_size=1, stride=2),
        dict(kernel_size=(1, 3), stride=2),
    ],
    ids=str,
)
def test_it_computes_all_that_timms_does(kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    ours, theirs = StridedSameConv2d(4, 8, **kwargs), Conv2dSame(4, 8, **kwargs)
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(torch.ones(size)), theirs(torch.ones(size)), FLOAT32)


def test_its_arguments_are_those_of_its_base() -> None:
    ours, base = (inspect.signature(conv).parameters for conv in (StridedSameConv2d, nn.Conv2d))
    assert list(ours) == list(base)
    assert all(ours[name].default == base[name].default for name in base if name != "padding")


def test_another_of_its_kind_can_be_built_from_its_attributes() -> None:
    conv = StridedSameConv2d(3, 8, 3, 2, bias=False)
    narrow = type(conv)(3, 2, conv.kernel_size, conv.stride, conv.padding, bias=False)  # as adapters do
    widen = type(conv)(2, 8, (1, 1), (1, 1), groups=conv.groups, bias=False)
    x = torch.randn(2, 3, 16, 15)
    assert widen(narrow(x)).shape == conv(x).shape
    with pytest.raises(ValueError, match="'same' is not supported for strided convolutions"):
        nn.Conv2d(3, 2, conv.kernel_size, conv.stride, conv.padding)
    with pytest.raises(RuntimeError, match="not supported for strided convolutions"):
        F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


@pytest.mark.parametrize("kwargs", [{"padding": 1}, {"padding": (1, 1)}, {"padding": "valid"},
                                    {"padding_mode": "reflect"}], ids=str)  # fmt: skip
def test_other_padding_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a SAME convolution has padding='same' and padding_mode='zeros', got"):
        StridedSameConv2d(3, 8, 3, 2, **kwargs)


@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv)), torch.jit.script],
    ids=["copy", "pickle", "script"],
)
@pytest.mark.parametrize("kernel", [3, 4])
def test_copies_of_it_compute_the_same(change: Callable[[nn.Module], Any], kernel: int) -> None:
    conv = StridedSameConv2d(4, 8, kernel, 2)
    x = torch.randn(2, 4, 16, 15)
    assert torch.equal(change(conv)(x), conv(x))
    assert repr(conv).startswith(
        f"StridedSameConv2d(4, 8, kernel_size=({kernel}, {kernel}), stride=(2, 2), padding=same"
    )


def test_a_parametrized_weight_is_used() -> None:
    conv = torch.nn.utils.parametrizations.weight_norm(StridedSameConv2d(4, 8, 3, 2))
    conv.parametrizations.weight.original0.data.zero_()
    assert torch.equal(conv(torch.randn(1, 4, 8, 8)), conv.bias.view(1, -1, 1, 1).expand(1, 8, 4, 4))


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
