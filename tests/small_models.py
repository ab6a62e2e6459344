"""Seeded models with statistics that fit them, and seeded images: what many tests share."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

import timm_effnet_ext  # noqa: F401  registers the models
from tests.closeness import FLOAT32, assert_close

SMALL = {"width_mult": 0.25, "depth_mult": 0.3}  # made in a moment; deep enough that some blocks are residual


class DoublingRow(nn.Sequential):
    """Modules in a row, and more than that."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def images(*size: int, batch: int = 2, chans: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random images (batch, chans, H, W); one size makes them square."""
    return torch.randn(batch, chans, size[0], size[-1], generator=torch.Generator().manual_seed(1)).to(dtype)


def create(name: str, **kwargs: Any) -> nn.Module:
    """Return `timm.create_model` of a registered name, drawn with one seed."""
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


def calibrated(model: nn.Module, *size: int, batch: int = 8) -> nn.Module:
    """Return `model` in eval mode with BatchNorm statistics that describe its activations on images of that size.

    A deep network with random statistics amplifies rounding without bound, so that equality means nothing there.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    stem = next(model.parameters())
    with torch.no_grad():
        model.train()(images(*(size or (96,)), batch=batch, chans=stem.shape[1], dtype=stem.dtype))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def twins(name: str, *size: int, batch: int = 8, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """Return our model of architecture `name` and timm's `tf_*` one with the same weights, calibrated at that size."""
    ours = calibrated(create(f"hucorz_{name}", dtype=dtype), *size, batch=batch)
    theirs = create(f"tf_{name}", dtype=dtype).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def assert_same_values(found: Tensor, expected: Tensor) -> None:
    """Compare what one network computes from one set of weights at two places in memory.

    Weights in a file's memory map start at other bytes than weights in allocated memory, and for those the CPU's
    kernels sum in another order.
    """
    assert_close(found, expected, FLOAT32)
