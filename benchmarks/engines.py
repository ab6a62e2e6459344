"""Who classifies in the benchmark: timm's model and ours in PyTorch, compiled, and as files of other engines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import Step, Work, is_there, ours, timms, torchvision_has, torchvisions
from timm_effnet_ext.export.graph import for_inference, to_onnx
from timm_effnet_ext.export.int8 import FLOAT_LAYERS, quantize
from timm_effnet_ext.hosts import has_bfloat16
from timm_effnet_ext.models.fold import optimize_for_inference

ALWAYS = ("timm", "timm channels_last", "ours", "optimized", "torchvision")
ENGINES = ("timm in ONNX Runtime", "ours in ONNX Runtime", "timm in OpenVINO", "ours in OpenVINO")
COMPILED = ("timm compiled", "optimized compiled")
OTHER_FORMS = ("ours for every size in ONNX Runtime", "ours in int8 in ONNX Runtime")
BFLOAT16 = "optimized bfloat16"


@contextmanager
def predictors(work: Work, names: Collection[str]) -> Iterator[dict[str, Step]]:
    """Give the functions that classify one batch, those of `names` that this machine can run; files live in the block.

    timm's model and ours have the same weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = _makers(work, Path(folder))
        yield {name: made[name]() for name in names if name in made}


def give_statistics(model: nn.Module, images: Tensor) -> None:
    """Give a model that was drawn at random the statistics of its own feature maps of `images`.

    With those that it begins with, feature maps shrink from block to block until they are denormal numbers, which
    processors compute many times more slowly. A trained network has none.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    model.eval()


def _makers(work: Work, folder: Path) -> dict[str, Callable[[], Step]]:
    theirs, our = timms(work), ours(work)
    give_statistics(our, work.images())
    theirs.eval().load_state_dict(our.state_dict())
    last, images = torch.channels_last, work.images()
    made: dict[str, Callable[[], Step]] = {
        "timm": lambda: _predict(theirs, images),
        "timm channels_last": lambda: _predict(_like(theirs, work).to(memory_format=last), work.images(last)),
        "ours": lambda: _predict(our, images),
        "optimized": lambda: _predict(optimize_for_inference(our), images),
        "timm compiled": lambda: _predict(_compile(theirs), images),
        "optimized compiled": lambda: _predict(_compile(optimize_for_inference(our)), images),
    }
    if torchvision_has(work):
        made["torchvision"] = lambda: _torchvision(work)
    if work.device.type != "cpu" or work.dtype != torch.float32:
        return made
    if has_bfloat16():
        fast = optimize_for_inference(our, dtype=torch.bfloat16)
        made[BFLOAT16] = lambda: _predict(fast, images.to(torch.bfloat16))
    if is_there("onnxruntime"):
        made |= _onnx_makers(theirs, our, work, folder)
    if is_there("openvino"):
        made["timm in OpenVINO"] = lambda: _openvino(theirs, work)
        made["ours in OpenVINO"] = lambda: _openvino(our, work)
    return made


def _like(model: nn.Module, work: Work) -> nn.Module:
    twin = timms(work).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def _torchvision(work: Work) -> Step:
    model = torchvisions(work)
    give_statistics(model, work.images())
    return _predict(model, work.images())


def _compile(model: nn.Module) -> Any:
    """Return a model compiled with its weights as constants, which fuses most."""
    return torch.compile(model, options={"freezing": True})


def _predict(model: Any, images: Tensor) -> Step:
    def step() -> None:
        with torch.inference_mode():
            model(images)

    return step


def _onnx_makers(theirs: nn.Module, our: nn.Module, work: Work, folder: Path) -> dict[str, Callable[[], Step]]:
    def of_timm() -> Step:
        file = folder / "timm.onnx"
        torch.onnx.export(theirs, (work.images(),), file, dynamo=True, verbose=False)
        return _onnxruntime(file, work)

    def of_ours(size: tuple[int, int] | None, name: str) -> Path:
        file = folder / name
        if not file.exists():
            to_onnx(for_inference(our), 3, size, "logits", work.batch).save(file)
        return file

    def in_int8() -> Step:
        file = folder / "int8.onnx"
        photos = (image.numpy() for image in work.images().split(work.batch) for _ in range(2))
        quantize(of_ours(size, "ours.onnx"), file, photos, FLOAT_LAYERS[0])
        return _onnxruntime(file, work)

    size = (work.size, work.size)
    return {
        "timm in ONNX Runtime": of_timm,
        "ours in ONNX Runtime": lambda: _onnxruntime(of_ours(size, "ours.onnx"), work),
        "ours for every size in ONNX Runtime": lambda: _onnxruntime(of_ours(None, "every.onnx"), work),
        "ours in int8 in ONNX Runtime": in_int8,
    }


def _onnxruntime(file: Path, work: Work) -> Step:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads or torch.get_num_threads()
    # Threads that spin after a run would take the cores of whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: work.images().numpy()}
    return lambda: session.run(None, feed)


def _openvino(model: nn.Module, work: Work) -> Step:
    import openvino

    images = work.images()
    # Where the processor has bfloat16, OpenVINO computes in it unless told otherwise: another result, not a faster one.
    threads = work.threads or torch.get_num_threads()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(openvino.convert_model(model, example_input=images), "CPU", settings)
    return lambda: compiled(images.numpy())
