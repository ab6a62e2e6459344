"""summary.py counts what timm's models hold and what torchvision and the papers say that they compute."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.arch.summary import summarize

# G multiply-accumulates and image size: pytorch/vision torchvision/models/efficientnet.py, `_ops` and `crop_size` of
# each IMAGENET1K_V1; its padding is symmetric, but gives the same sizes as SAME.
TORCHVISION_GMACS = {
    "efficientnet_b0": (0.386, 224),
    "efficientnet_b1": (0.687, 240),
    "efficientnet_b2": (1.088, 288),
    "efficientnet_b3": (1.827, 300),
    "efficientnet_b4": (4.394, 380),
    "efficientnet_b5": (10.266, 456),
    "efficientnet_b6": (19.068, 528),
    "efficientnet_b7": (37.746, 600),
    "efficientnet_v2_s": (8.366, 384),
    "efficientnet_v2_m": (24.582, 480),
    "efficientnet_v2_l": (56.08, 480),
}

# Operator, stride, channels, layers: arXiv:2104.00298 Table 4.
V2_S_TABLE = [
    ("Conv3x3", 2, 24, 1),
    ("Fused-MBConv1, k3x3", 1, 24, 2),
    ("Fused-MBConv4, k3x3", 2, 48, 4),
    ("Fused-MBConv4, k3x3", 2, 64, 4),
    ("MBConv4, k3x3, SE0.25", 2, 128, 6),
    ("MBConv6, k3x3, SE0.25", 1, 160, 9),
    ("MBConv6, k3x3, SE0.25", 2, 256, 15),
    ("Conv1x1 & Pooling & FC", 1, 1280, 1),
]


@pytest.mark.parametrize("name", ARCHS)
def test_parameters_are_those_of_timms_model(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"tf_{name}")
    assert summarize(ARCHS[name]).params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", TORCHVISION_GMACS)
def test_macs_are_those_that_torchvision_publishes(name: str) -> None:
    gmacs, size = TORCHVISION_GMACS[name]
    summary = summarize(ARCHS[name.replace("_v2", "v2")], size)
    assert summary.macs / 1e9 == pytest.approx(gmacs, abs=5e-4)  # published with three decimals


# arXiv:1905.11946 Table 2 and arXiv:2104.00298 Table 7, "FLOPs": given with two digits, counted somewhat differently.
@pytest.mark.parametrize(("name", "billions"), [("efficientnet_b0", 0.39), ("efficientnet_b7", 37), ("efficientnetv2_s", 8.8)])  # fmt: skip  # noqa: E501
def test_macs_are_near_the_papers(name: str, billions: float) -> None:
    assert summarize(ARCHS[name]).macs / 1e9 == pytest.approx(billions, rel=0.06)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_es", "efficientnetv2_b0", "efficientnet_lite0"])
def test_macs_and_resolutions_are_those_of_the_running_model(name: str) -> None:
    """Counted by hooks on every convolution and linear layer, at an odd size that SAME padding rounds up."""
    scale = {"width_mult": 0.5, "depth_mult": 0.5}
    model = timm.create_model(f"hucorz_{name}", **scale).eval()
    counted, outputs = [], []

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        counted.append(module.weight.numel() * math.prod(output.shape[2:]))

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    for stage in model.blocks:
        stage.register_forward_hook(lambda _, __, output: outputs.append(output.shape[2]))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 75, 75))
    summary = summarize(ARCHS[name], 75, **scale)
    assert summary.macs == sum(counted)
    assert [row.resolution for row in summary.rows[1:-1]] == outputs
    assert summary.params == sum(p.numel() for p in model.parameters())


def test_rows_read_as_in_the_paper() -> None:
    rows = summarize(ARCHS["efficientnetv2_s"]).rows
    assert [(row.operator, row.stride, row.channels, row.layers) for row in rows] == V2_S_TABLE
    assert [row.stage for row in rows] == list(range(8))
