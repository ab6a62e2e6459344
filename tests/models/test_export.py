"""One recorded graph serves every batch, height and width; compiling, scripting and pickling keep the numbers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

from tests.closeness import FLOAT32, assert_close
from tests.small_models import SMALL, calibrated, create, images
from timm_effnet_ext import optimize_for_inference

EXPORTED = [
    "efficientnet_lite0",
    pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    pytest.param("efficientnetv2_s", marks=pytest.mark.slow),
]
SIZES = [(64, 64), (75, 91), (97, 64)]
SMALLEST = 33  # pixels, the minimum size that the named dimensions are declared with


def model_of(name: str, **kwargs: Any) -> nn.Module:
    return calibrated(create(f"hucorz_{name}", **kwargs))


@pytest.mark.parametrize("name", EXPORTED)
def test_one_exported_program_serves_every_size(name: str) -> None:
    model = model_of(name)
    dims = {0: Dim("batch"), 2: Dim("height", min=SMALLEST), 3: Dim("width", min=SMALLEST)}
    with torch.inference_mode():
        exported = torch.export.export(model, (images(80, 96),), dynamic_shapes=(dims,)).module()
        for size in SIZES:
            x = images(*size, batch=3)
            assert_close(exported(x), model(x), FLOAT32)


@pytest.mark.parametrize("name", EXPORTED)
def test_one_onnx_file_serves_every_size(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = model_of(name), tmp_path / "model.onnx"
    torch.onnx.export(
        model, (images(80, 96),), file, dynamo=True, verbose=False,
        input_names=["image"], output_names=["logits"],
        dynamic_shapes=({0: Dim("batch"), 2: Dim("height", min=SMALLEST), 3: Dim("width", min=SMALLEST)},),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for size in SIZES:
        x = images(*size, batch=3)
        with torch.inference_mode():
            assert_close(session.run(None, {"image": x.numpy()})[0], model(x), FLOAT32)


def jit_trace(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Any]:
    return torch.jit.trace(model, x, check_trace=not model.training, strict=False)


def onnx_by_trace(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(model, (x,), folder / "model.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(y) for y in session.run(None, {"x": image.numpy()})]


def fx_trace(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Any]:
    return make_fx(model, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "classifier": ({}, lambda model: model),
    "one channel": ({"in_chans": 1}, lambda model: model),
    "lean": ({"lean": True}, lambda model: model),
    "folded": ({}, optimize_for_inference),
    "in training": ({}, lambda model: model.train()),
    "features": ({"features_only": True}, lambda model: model),
    "expanded features": ({"features_only": True, "feature_location": "expansion"}, lambda model: model),
}


@pytest.mark.parametrize("trace", [jit_trace, onnx_by_trace, fx_trace])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_trace_serves_every_size(trace: Any, variant: str, tmp_path: Path) -> None:
    if variant == "in training" and trace is onnx_by_trace:
        pytest.skip("ONNX has no training")
    kwargs, change = VARIANTS[variant]
    # Of the strided convolutions in V2-S, some pad the input and some drop outputs, also at this scale.
    model = change(model_of("efficientnetv2_s", **SMALL, **kwargs))
    chans = kwargs.get("in_chans", 3)
    with torch.no_grad():
        for size in (64, 65):
            recorded = trace(model, images(size, chans=chans), tmp_path)
            for other in (*SIZES, (65, 65)):
                x = images(*other, batch=3, chans=chans)
                for found, expected in zip(maps(recorded(x)), maps(model(x)), strict=True):
                    assert (found - expected).norm() <= 1e-5 * expected.norm()  # other kernels, in another order


def maps(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def test_static_onnx_has_no_pad_nodes(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    file = tmp_path / "model.onnx"
    small = model_of("efficientnet_b0", **SMALL)
    torch.onnx.export(small, (images(96, batch=1),), file, dynamo=True, verbose=False)
    assert not [node for node in onnx.load(file).graph.node if node.op_type == "Pad"]


def test_compile_has_no_graph_break() -> None:
    model = timm.create_model("hucorz_efficientnetv2_b0", **SMALL).train()
    explained = torch._dynamo.explain(model)(images(64))
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_b0"])
def test_pickle_and_script_keep_the_numbers(name: str) -> None:
    model = model_of(name)
    x = images(75, 64)
    with torch.inference_mode():
        expected = model(x)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        assert_close(torch.jit.script(model)(x), expected, FLOAT32)  # it fuses
