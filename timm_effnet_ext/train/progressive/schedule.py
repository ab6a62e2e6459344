"""Progressive learning as data: the presets, and a plan of stages that ties every strength to an image size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.errors import EffNetExtError

STAGES = 4  # arXiv:2104.00298 section 4.2; google/automl effnetv2_configs.py `stages=4`
BATCH_MULTIPLE = 8  # a grown batch is rounded down to it: mixup needs an even one, tensor cores a multiple of 8


@dataclass(frozen=True)
class Ramp:
    """A strength that moves linearly from the first stage to the last (arXiv:2104.00298 Algorithm 1)."""

    first: float
    last: float

    def over(self, stages: int) -> tuple[float, ...]:
        """Return the value at each of `stages` stages."""
        steps = max(stages - 1, 1)
        return tuple(self.first + (self.last - self.first) * i / steps for i in range(stages))


Values = Ramp | tuple[float, ...]
"""What a strength is over the stages: a ramp, or one number a stage."""


@dataclass(frozen=True)
class TrainStage:
    """How images of one size are trained on; None leaves a strength to the program's own options.

    `randaug` is a magnitude, `mixup` and `cutmix` are the α of a Beta distribution (0: off), `dropout` is the rate
    before the classifier, `drop_path` that of stochastic depth in the last block.
    """

    size: int  # pixels, square
    randaug: int | None = None
    mixup: float | None = None
    cutmix: float | None = None
    dropout: float | None = None
    drop_path: float | None = None


STRENGTHS = tuple(field.name for field in fields(TrainStage) if field.name != "size")


@dataclass(frozen=True)
class Plan:
    """The stages of a run, smallest images first. Every strength is a pure function of the image size."""

    stages: tuple[TrainStage, ...]
    grow_batch: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """The image size of each stage."""
        return tuple(stage.size for stage in self.stages)

    def at(self, size: int) -> TrainStage | None:
        """Return the stage that trains on images of `size`; None if there is none."""
        return next((stage for stage in self.stages if stage.size == size), None)

    def strengths(self, name: str) -> tuple[float, ...] | None:
        """Return one strength over the stages, or None where the program's own options decide."""
        values = tuple(getattr(stage, name) for stage in self.stages)
        return None if None in values else values

    def batch_sizes(self, batch_size: int) -> tuple[int, ...]:
        """Return the batch size of each stage, `batch_size` at the last.

        A grown batch holds as many pixels as the last stage's: activations take the same memory at every stage.
        """
        if not self.grow_batch:
            return (batch_size,) * len(self.stages)
        largest = self.sizes[-1]
        return tuple(_round_down(batch_size * largest**2 // size**2, batch_size) for size in self.sizes)


def _round_down(batch_size: int, least: int) -> int:
    return max(least, batch_size // BATCH_MULTIPLE * BATCH_MULTIPLE)


def stage_of(epoch: int, epochs: int, stages: int) -> int:
    """Return the stage that `epoch` belongs to: `stages` equal parts, boundaries rounded down to whole epochs.

    Source: google/automl efficientnetv2/main_tf2.py `start_epoch`. Epochs past the end (cooldown) stay in the last.
    """
    return max(s for s in range(stages) if s * epochs // stages <= epoch)


def make_plan(settings: Mapping[str, Values], *, grow_batch: bool = False) -> Plan:
    """Return the plan that `settings` describes: "sizes", and any of `STRENGTHS`.

    Raises:
        EffNetExtError: There are no sizes, they do not grow, or a strength has another number of stages.
    """
    if "sizes" not in settings:
        raise EffNetExtError("no sizes: name a preset (auto, paper, google) or give sizes=128,185,242,300")
    sizes = settings["sizes"]
    stages = STAGES if isinstance(sizes, Ramp) else len(sizes)
    columns = {name: _over(name, values, stages) for name, values in settings.items()}
    pixels = [int(size) for size in columns.pop("sizes")]
    if stages < 2 or sorted(set(pixels)) != pixels:
        raise EffNetExtError(f"sizes must be at least two and grow, got {','.join(map(str, pixels))}")
    if "randaug" in columns:  # timm's RandAugment takes whole magnitudes
        columns["randaug"] = tuple(round(magnitude) for magnitude in columns["randaug"])
    rows = zip(pixels, *columns.values(), strict=True)
    return Plan(tuple(TrainStage(size, **dict(zip(columns, row, strict=True))) for size, *row in rows), grow_batch)


def _over(name: str, values: Values, stages: int) -> tuple[float, ...]:
    if isinstance(values, Ramp):
        return values.over(stages)
    if len(values) != stages:
        raise EffNetExtError(f"{name} has {len(values)} values for {stages} stages; give one a stage, or first:last")
    return values


# arXiv:2104.00298 Table 6: first and last image size, RandAugment magnitude, mixup α, dropout rate.
PAPER: Mapping[str, Mapping[str, Values]] = {
    arch: {"sizes": Ramp(*sizes), "randaug": Ramp(*randaug), "mixup": Ramp(*mixup), "dropout": Ramp(*dropout)}
    for arch, sizes, randaug, mixup, dropout in (
        #                    size        RandAugment  mixup     dropout
        ("efficientnetv2_s", (128, 300), (5, 15),     (0, 0),   (0.1, 0.3)),
        ("efficientnetv2_m", (128, 380), (5, 20),     (0, 0.2), (0.1, 0.4)),
        ("efficientnetv2_l", (128, 380), (5, 25),     (0, 0.5), (0.1, 0.5)),
    )
}  # fmt: skip


class _Google(NamedTuple):
    randaug: int | None
    mix: float  # mixup and cutmix α


# google/automl efficientnetv2/effnetv2_configs.py `efficientnetv2_params`: the strengths of the last stage.
# B0…B3 train with AutoAugment there, which has no magnitude: pass `--aa original`.
_GOOGLE_LAST = {
    "efficientnetv2_s":  _Google(10, 0),
    "efficientnetv2_m":  _Google(15, 0.2),
    "efficientnetv2_l":  _Google(20, 0.5),
    "efficientnetv2_xl": _Google(20, 0.5),
    "efficientnetv2_b0": _Google(None, 0),
    "efficientnetv2_b1": _Google(None, 0),
    "efficientnetv2_b2": _Google(None, 0),
    "efficientnetv2_b3": _Google(None, 0),
}  # fmt: skip


def _google(arch: str) -> dict[str, Values]:
    """Return Google's schedule, which starts a quarter of the way up from half the size and leaves dropout alone.

    Source: google/automl efficientnetv2/main_tf2.py `get_multi_stage_config`, with `ibase` unset.
    """
    last, size = _GOOGLE_LAST[arch], ARCHS[arch].train_size
    base = size / 2
    settings: dict[str, Values] = {
        "sizes": Ramp(base + (size - base) / STAGES, size),
        "mixup": Ramp(0, last.mix),
        "cutmix": Ramp(0, last.mix),
    }
    if last.randaug is not None:
        settings["randaug"] = Ramp(5, last.randaug)
    return settings


GOOGLE: Mapping[str, Mapping[str, Values]] = {arch: _google(arch) for arch in _GOOGLE_LAST}

PRESETS: Mapping[str, Mapping[str, Mapping[str, Values]]] = {
    "auto": {**GOOGLE, **PAPER},  # the paper's row where it has one: it alone raises dropout too
    "paper": PAPER,
    "google": GOOGLE,
}
"""Settings by preset and architecture."""
