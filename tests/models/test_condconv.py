"""CondConv: what timm's computes, for each image alone, in one graph for every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import timm.layers
import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.closeness import FLOAT32, FLOAT64, assert_close, distance
from tests.small_models import SMALL, calibrated, create, images
from timm_effnet_ext import optimize_for_inference
from timm_effnet_ext.arch.rows import PREFIX
from timm_effnet_ext.models.layers import CondConv2d

NAME = f"{PREFIX}efficientnet_cc_b0_4e"
SIZES = [(64, 64), (75, 91), (97, 64)]
LAYERS = [
    dict(kernel_size=1),
    dict(kernel_size=1, padding="same"),
    dict(kernel_size=1, padding=1),
    dict(kernel_size=1, stride=2, padding="same"),
    dict(kernel_size=3, padding="same", groups=8),
    dict(kernel_size=5, stride=2, padding="same", groups=8),
    dict(kernel_size=5, stride=2, padding="", groups=8),
    dict(kernel_size=4, stride=2, padding="same", groups=8),
    dict(kernel_size=3, dilation=2, padding="same", groups=8),
    dict(kernel_size=3, stride=2, dilation=2, padding="same", groups=2),
]


def layers(kwargs: dict[str, Any], out_chs: int = 8) -> tuple[nn.Module, nn.Module]:
    """Return our layer and timm's, with the same weight."""
    torch.manual_seed(0)
    kwargs = {"padding": "", **kwargs}
    ours, theirs = (make(8, out_chs, num_experts=3, **kwargs).double() for make in (CondConv2d, timm.layers.CondConv2d))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def batch(size: tuple[int, int], count: int = 4) -> tuple[Tensor, Tensor]:
    """Return images and how much of each of three experts they get, which need not add up to one."""
    return torch.randn(count, 8, *size).double(), torch.rand(count, 3).double()


def model() -> nn.Module:
    return calibrated(create(NAME, **SMALL))


@pytest.mark.parametrize("kwargs", LAYERS, ids=str)
@pytest.mark.parametrize("size", [(16, 16), (15, 15), (16, 15)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_layer_is_timms(kwargs: dict[str, Any], size: tuple[int, int], memory_format: Any) -> None:
    both = layers(kwargs)
    x, routing = batch(size)
    x = x.to(memory_format=memory_format)
    outputs, grads = [], []
    for layer in both:
        given = x.clone().requires_grad_(), routing.clone().requires_grad_()
        outputs.append(layer(*given))
        weight = torch.linspace(0, 1, outputs[-1].numel()).view(outputs[-1].shape)
        grads.append(torch.autograd.grad((outputs[-1] * weight).sum(), (*given, layer.weight)))
    assert_close(*outputs, FLOAT64)
    for ours, theirs in zip(*grads, strict=True):
        assert_close(ours, theirs, FLOAT64)


@pytest.mark.parametrize("kwargs", LAYERS, ids=str)
def test_a_record_of_the_layer_holds_for_every_batch_and_size(kwargs: dict[str, Any]) -> None:
    layer, _ = layers(kwargs)
    recorded = torch.jit.trace(layer, batch((16, 16)), check_trace=False)
    for count, size in ((1, (16, 16)), (3, (15, 16)), (8, (21, 15))):
        given = batch(size, count)
        assert_close(recorded(*given), layer(*given), FLOAT64)


@pytest.mark.parametrize("kwargs", LAYERS, ids=str)
def test_a_shift_is_the_same_for_every_image(kwargs: dict[str, Any]) -> None:
    layer, _ = layers(kwargs)
    given = batch((16, 15))
    plain = layer(*given)
    layer.bias = nn.Parameter(torch.arange(8.0).double())
    shifted = plain + torch.arange(8).view(-1, 1, 1)
    assert_close(layer(*given), shifted, FLOAT64)
    assert_close(torch.jit.trace(layer, given, check_trace=False)(*given), shifted, FLOAT64)


def test_an_image_alone_is_what_it_is_among_others() -> None:
    net = create(NAME, dtype=torch.float64).eval()
    x = images(75, 64, batch=5, dtype=torch.float64)
    with torch.inference_mode():
        together = net(x)
        for i in range(5):
            assert_close(net(x[i : i + 1]), together[i : i + 1], FLOAT64)


def test_a_batch_may_be_empty() -> None:
    assert model()(images(64)[:0]).shape == (0, 1000)


def test_experts_and_routing_are_drawn_as_in_tensorflow() -> None:
    block: Any = create(NAME).blocks[5][2]  # type: ignore[index]
    for conv, fan_out in ((block.conv_pw, 1152), (block.conv_dw, 25), (block.conv_pwl, 192)):
        for expert in conv.weight:  # of 28,800 values or more, whose deviation is off by 0.4 % of itself
            assert float(expert.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    limit = (6 / (192 + 4)) ** 0.5
    assert 0.95 * limit < float(block.routing_fn.weight.detach().abs().max()) <= limit
    assert not block.routing_fn.bias.any()


@pytest.mark.parametrize("change", [lambda net: net, optimize_for_inference], ids=["plain", "folded"])
def test_one_onnx_file_serves_every_batch_and_size(change: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, file = change(model()), tmp_path / "model.onnx"
    dims = {0: Dim("batch"), 2: Dim("height", min=33), 3: Dim("width", min=33)}
    torch.onnx.export(
        net, (images(80, 96),), file, dynamo=True, verbose=False, input_names=["x"], dynamic_shapes=(dims,)
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for size in SIZES:
        for count in (1, 3, 8):
            x = images(*size, batch=count)
            with torch.inference_mode():
                assert_close(session.run(None, {"x": x.numpy()})[0], net(x), FLOAT32)


def test_compile_has_no_graph_break() -> None:
    explained = torch._dynamo.explain(timm.create_model(NAME, **SMALL).train())(images(64))
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0


def test_scripts_keep_the_numbers() -> None:
    net = model()
    for changed in (net, optimize_for_inference(net)):
        with torch.inference_mode():
            assert distance(torch.jit.script(changed)(images(75, 64)), net(images(75, 64))) <= FLOAT32
