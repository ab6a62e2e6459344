"""Who runs in the benchmark: our models, timm's `tf_*` twins, torchvision's, and other engines on exported files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_effnet_ext.arch.rows import PREFIX, TIMM_PREFIX
from timm_effnet_ext.models.fold import optimize_for_inference

Step = Callable[[], Any]
_TORCHVISION = {"efficientnetv2_s": "efficientnet_v2_s"}  # where its name is not the architecture's
_ENGINE_MODULES = {
    "onnxruntime": ("onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "torchvision": ("torchvision",),
}


class Work(NamedTuple):
    """One model on one batch of square images."""

    arch: str
    size: int  # pixels
    batch: int
    device: torch.device
    dtype: torch.dtype = torch.float32

    def images(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Return random images."""
        x = torch.randn(self.batch, 3, self.size, self.size, device=self.device, dtype=self.dtype)
        return x.to(memory_format=memory_format)

    def __str__(self) -> str:
        return f"{self.arch} @{self.size}, batch {self.batch}"


def is_there(engine: str) -> bool:
    """Whether what `engine` needs is installed."""
    return all(find_spec(name) is not None for name in _ENGINE_MODULES[engine])


def torchvision_has(work: Work) -> bool:
    """Whether torchvision is installed and has the architecture."""
    if not is_there("torchvision"):
        return False
    from torchvision.models import list_models

    return _TORCHVISION.get(work.arch, work.arch) in list_models()


def timms(work: Work) -> nn.Module:
    """Return timm's twin."""
    return timm.create_model(TIMM_PREFIX + work.arch).to(work.device, work.dtype)


def ours(work: Work, **kwargs: Any) -> nn.Module:
    """Return our model."""
    return timm.create_model(PREFIX + work.arch, **kwargs).to(work.device, work.dtype)


def torchvisions(work: Work) -> nn.Module:
    """Return torchvision's model; its padding and BN eps are not those of TensorFlow."""
    from torchvision.models import get_model

    return get_model(_TORCHVISION.get(work.arch, work.arch)).to(work.device, work.dtype)


def _checkpointed(work: Work) -> nn.Module:
    model: Any = timms(work)
    model.set_grad_checkpointing()
    return model


def _compiled(work: Work) -> Any:
    return torch.compile(timms(work))


def trainers(work: Work, *, compiled: bool, only: Collection[str] | None = None) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return the models of a training step with their images, by name; `only` some of them."""
    plain, last = torch.contiguous_format, torch.channels_last
    made: dict[str, tuple[Callable[[Work], Any], torch.memory_format]] = {
        "timm": (timms, plain),
        "timm channels_last": (timms, last),
        "timm checkpointed": (_checkpointed, plain),
        "ours": (ours, plain),
        "ours channels_last": (ours, last),
        "lean": (lambda w: ours(w, lean=True), plain),
        "lean channels_last": (lambda w: ours(w, lean=True), last),
        "ours linear_probe": (lambda w: ours(w, linear_probe=True), plain),
    }
    if compiled:
        made["timm compiled"] = (_compiled, plain)
    if torchvision_has(work):
        made["torchvision"] = (torchvisions, plain)
    if only is not None:
        made = {name: made[name] for name in only}
    return {n: (make(work).to(memory_format=fmt).train(), work.images(fmt)) for n, (make, fmt) in made.items()}


def train_step(model: nn.Module, images: Tensor, amp: torch.dtype | None = None) -> Step:
    """Return a function that runs forward, under autocast to `amp` if given, and backward, and leaves no gradients."""
    labels = torch.arange(len(images), device=images.device)

    def step() -> None:
        with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step


@contextmanager
def predictors(work: Work, *, compiled: bool = False) -> Iterator[dict[str, Step]]:
    """Give the functions that classify one batch, by name; exported files live as long as the block."""
    theirs, our = timms(work).eval(), ours(work).eval()
    last = torch.channels_last
    steps = {
        "timm": _predict(theirs, work.images()),
        "timm channels_last": _predict(timms(work).eval().to(memory_format=last), work.images(last)),
        "ours": _predict(our, work.images()),
        "optimized": _predict(optimize_for_inference(our), work.images()),
    }
    if compiled:
        steps["timm compiled"] = _predict(torch.compile(theirs), work.images())
        steps["optimized compiled"] = _predict(torch.compile(optimize_for_inference(our)), work.images())
    if torchvision_has(work):
        steps["torchvision"] = _predict(torchvisions(work).eval(), work.images())
    is_for_engines = work.device.type == "cpu" and work.dtype == torch.float32
    with tempfile.TemporaryDirectory() as folder:
        if is_for_engines and is_there("onnxruntime"):
            steps["timm in ONNX Runtime"] = _onnxruntime(theirs, work, Path(folder) / "timm.onnx")
            steps["ours in ONNX Runtime"] = _onnxruntime(our, work, Path(folder) / "ours.onnx")
        if is_for_engines and is_there("openvino"):
            steps["timm in OpenVINO"] = _openvino(theirs, work)
            steps["ours in OpenVINO"] = _openvino(our, work)
        yield steps


def _predict(model: Any, images: Tensor) -> Step:
    def step() -> None:
        with torch.inference_mode():
            model(images)

    return step


def _onnxruntime(model: nn.Module, work: Work, file: Path) -> Step:
    import onnxruntime

    images = work.images()
    torch.onnx.export(model, (images,), file, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin after a run would take the cores of whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def _openvino(model: nn.Module, work: Work) -> Step:
    import openvino

    images = work.images()
    # Where the processor has bfloat16, OpenVINO computes in it unless told otherwise: another result, not a faster one.
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(openvino.convert_model(model, example_input=images), "CPU", settings)
    return lambda: compiled(images.numpy())
