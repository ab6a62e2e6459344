"""Who runs in the benchmark: our models, timm's `tf_*` twins and torchvision's, and how they train."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from timm_effnet_ext.arch.rows import PREFIX, TIMM_PREFIX

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
    threads: int | None = None
    """Of the CPU; None is as many as torch takes."""

    def images(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Return random images."""
        x = torch.randn(self.batch, 3, self.size, self.size, device=self.device, dtype=self.dtype)
        return x.to(memory_format=memory_format)

    def __str__(self) -> str:
        threads = {None: "", 1: ", one thread"}.get(self.threads, f", {self.threads} threads")
        return f"{self.arch} @{self.size}, batch {self.batch}{threads}"


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


class _Selective(nn.Sequential):
    """A stage whose convolutions' outputs are kept, and all else recomputed, by torch's own means."""

    def forward(self, x: Tensor) -> Tensor:
        kept = [torch.ops.aten.convolution.default]
        contexts = partial(create_selective_checkpoint_contexts, kept)
        return checkpoint(super().forward, x, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


def _selectively_checkpointed(work: Work) -> nn.Module:
    model: Any = timms(work)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # torch's means refuses kept values that are overwritten
    model.blocks = nn.Sequential(*(_Selective(*stage) for stage in model.blocks))
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
        "timm selectively checkpointed": (_selectively_checkpointed, plain),
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
