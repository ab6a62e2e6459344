"""How a law trains a model with and without lean training, and how it compares what that leaves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import timm_effnet_ext  # noqa: F401  registers the models
from benchmarks.gpu.device import random_state
from benchmarks.parts import Options
from tests.closeness import FLOAT32, distance
from timm_effnet_ext.arch.rows import PREFIX

ARCHS = ("efficientnet_b0", "efficientnetv2_s", "efficientnet_cc_b0_4e", "efficientnet_lite0")
FORMATS = {"": torch.contiguous_format, " channels_last": torch.channels_last}
STOCHASTIC: dict[str, Any] = {"drop_rate": 0.2, "drop_path_rate": 0.3}
ROUNDING = {torch.float32: FLOAT32, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""What lean training may be off where training without it is off by less: FLOAT32 has its reason beside it, of the
others it is one rounding of a value."""
MARGIN = 2.0  # two ways to round that are as good as each other differ by less in how far they come
REORDERED = {torch.float32: FLOAT32, torch.float16: 0.02}
"""What one model's gradients differ by where sums go in another order; of memory that is another's comes 1 or more."""


class Off(NamedTuple):
    """How far something is from what it should be, relative to that one's norm, and how far it may be."""

    what: str
    off: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether it is near enough; what is no number is not."""
        return self.off <= self.allowed

    def __str__(self) -> str:
        return f"{self.what} off by {self.off:.1e}, allowed {self.allowed:.1e}"


class Verdict(NamedTuple):
    """What was found of one law."""

    law: str
    offs: tuple[Off, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that was compared is near enough, and anything was."""
        return bool(self.offs) and all(off.holds for off in self.offs)


class Case(NamedTuple):
    """How a model is trained: on what, in which autocast, and whether that holds for backward, too."""

    images: Tensor
    amp: torch.dtype | None = None
    amp_backward: bool = False

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """Return the autocast of forward, or one that is off."""
        is_on = enabled and self.amp is not None
        return torch.autocast(self.images.device.type, dtype=self.amp, enabled=is_on)

    def forward(self, model: nn.Module) -> Tensor:
        """Return the logits."""
        with self.autocast():
            return model(self.images)  # type: ignore[no-any-return]

    def loss(self, output: Tensor) -> Tensor:
        """Return what is minimised, in float32 at least."""
        labels = torch.arange(len(output), device=output.device) % 10
        return F.cross_entropy(output.to(torch.promote_types(output.dtype, torch.float32)), labels)

    def train(self, model: nn.Module) -> Trained:
        """Run forward and backward from one random state."""
        model.zero_grad(set_to_none=True)
        torch.manual_seed(2)
        output = self.forward(model)
        with self.autocast(self.amp_backward):
            self.loss(output).backward()
        return Trained.of(model, output)


class Trained(NamedTuple):
    """What a training step leaves."""

    output: Tensor
    gradients: Tensor
    statistics: Tensor
    random: Tensor

    @classmethod
    def of(cls, model: nn.Module, output: Tensor) -> Trained:
        """Return what a step of `model` left."""
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        return cls(output.detach(), gradients_of(model), flatten(statistics), random_state(output.device))


def gradients_of(model: nn.Module) -> Tensor:
    """Return all gradients in one row."""
    return flatten([p.grad for p in model.parameters() if p.grad is not None])


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Return all values in one row, in float64."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def make_pair(options: Options, arch: str, dtype: torch.dtype = torch.float32, **kwargs: Any) -> tuple[Any, Any]:
    """Return a model in training mode and its lean twin with the same weights."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"width_mult": 0.25, "depth_mult": 0.2} if options.quick else {"depth_mult": 0.5}
    model: Any = timm.create_model(PREFIX + arch, num_classes=10, **shape, **kwargs)
    model = model.to(options.device, dtype).train()
    lean = copy.deepcopy(model)
    lean.set_lean_training()
    return model, lean


def draw_images(options: Options, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Return images of an odd height, which SAME pads unevenly."""
    batch, size = (4, 32) if options.quick else (16, 128)
    x = torch.randn(batch, 3, size + 1, size, generator=torch.Generator().manual_seed(seed))
    return x.to(options.device, dtype)


def make_cases(
    options: Options, dtype: torch.dtype, **kwargs: Any
) -> Iterator[tuple[str, nn.Module, nn.Module, Tensor]]:
    """Yield every architecture in every memory format: name, model, lean twin, images."""
    for arch in ARCHS:
        for name, memory_format in FORMATS.items():
            models = make_pair(options, arch, dtype, **kwargs)
            model, lean = (m.to(memory_format=memory_format) for m in models)
            yield arch + name, model, lean, draw_images(options, dtype).to(memory_format=memory_format)


def compare(what: str, found: Trained, expected: Trained, within: float) -> Iterator[Off]:
    """Hold all that a step left to what is expected."""
    for part in ("output", "gradients", "statistics"):
        yield Off(f"{what} {part}", distance(getattr(found, part), getattr(expected, part)), within)
    yield check(f"{what} random state", torch.equal(found.random, expected.random))


def check(what: str, is_so: bool) -> Off:
    """Return something that is so or not."""
    return Off(what, float(not is_so), 0.0)


def hold_as_near(what: str, lean: Trained, plain: Trained, exact: Trained, rounding: float) -> Iterator[Off]:
    """Hold lean training to how near training without it comes to float64."""
    for part in ("output", "gradients", "statistics"):
        found, usual = (distance(getattr(side, part), getattr(exact, part)) for side in (lean, plain))
        yield Off(f"{what} {part}", found, max(MARGIN * usual, rounding))
