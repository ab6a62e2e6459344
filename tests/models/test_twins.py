"""Every model is timm's tf_* model of the same architecture: keys, shapes, outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.closeness import FLOAT32, FLOAT64, assert_close, assert_each_close
from tests.small_models import images, twins
from timm_effnet_ext.arch.layout import layers, state_shapes
from timm_effnet_ext.arch.rows import ARCHS, PREFIX

SMALL = (
    "efficientnet_b0",
    "efficientnet_cc_b0_4e",
    "efficientnet_es",
    "efficientnet_lite0",
    "efficientnetv2_b0",
    "efficientnetv2_s",
)
EACH = [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in ARCHS]
SIZES = [(64, 64), (75, 91), (97, 64)]
# Rounding differs only where the order of sums does (padding done by the convolution or before it).
TOLERANCE = {torch.float64: FLOAT64, torch.float32: FLOAT32}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 7, "in_chans": 1}, {"num_classes": 0}])
def test_keys_and_shapes_are_the_twins_and_what_the_row_says(name: str, kwargs: dict[str, Any]) -> None:
    ours, theirs = (timm.create_model(prefix + name, device="meta", **kwargs) for prefix in (PREFIX, "tf_"))
    assert shapes(ours) == shapes(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert state_shapes(layers(ARCHS[name], **kwargs)) == shapes(ours)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", ["native", *SIZES], ids=str)
def test_outputs_are_the_twins(name: str, dtype: torch.dtype, size: str | tuple[int, int]) -> None:
    native = ARCHS[name].eval_size
    height, width = (native, native) if isinstance(size, str) else size
    ours, theirs = twins(name, height, width, batch=1 if size == "native" else 16, dtype=dtype)
    x = images(height, width, batch=1 if size == "native" else 2, dtype=dtype)
    with torch.inference_mode():
        assert_close(ours(x), theirs(x), TOLERANCE[dtype])


@pytest.mark.parametrize("name", EACH)
def test_gradients_are_the_twins_in_training(name: str) -> None:
    ours, theirs = twins(name, 75, 64, dtype=torch.float64)
    x = images(75, 64, dtype=torch.float64)
    for model in (ours, theirs):
        model.train()(x).square().mean().backward()
    grads = [{key: param.grad for key, param in model.named_parameters()} for model in (ours, theirs)]
    assert_each_close(*grads, FLOAT64)
    assert_each_close(*(dict(model.named_buffers()) for model in (ours, theirs)), FLOAT64)


@pytest.mark.parametrize("name", SMALL)
def test_weights_flow_both_ways(name: str) -> None:
    ours, theirs = twins(name)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    nn.init.zeros_(ours.conv_stem.weight)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_b0"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_outputs_are_the_twins(name: str, output_stride: int) -> None:
    ours, _ = twins(name)
    dilated = [timm.create_model(p + name, output_stride=output_stride).eval() for p in (PREFIX, "tf_")]
    for model in dilated:
        model.load_state_dict(ours.state_dict())
    x = images(64, 75)
    with torch.inference_mode():
        features = [model.forward_features(x) for model in dilated]
    assert_close(*features, FLOAT32)
