"""The text of `--progressive`, and the plan of stages that it makes: every strength tied to an image size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from timm_effnet_ext.arch.rows import row_name
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.presets import PRESETS, STAGES, Ramp, Values

BATCH_MULTIPLE = 8  # a grown batch is rounded down to it: mixup needs an even one, tensor cores a multiple of 8
OFF = "off"


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
        grown = (batch_size * self.sizes[-1] ** 2 // size**2 for size in self.sizes)
        return tuple(max(batch_size, size // BATCH_MULTIPLE * BATCH_MULTIPLE) for size in grown)


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
    """Return the value of a strength at each of `stages` stages."""
    if isinstance(values, Ramp):
        steps = max(stages - 1, 1)
        return tuple(values.first + (values.last - values.first) * i / steps for i in range(stages))
    if len(values) != stages:
        raise EffNetExtError(f"{name} has {len(values)} values for {stages} stages; give one a stage, or first:last")
    return values


class _Range(NamedTuple):
    least: float
    below: float
    what: str


_RATE = _Range(0, 1, "a rate from 0 to below 1")
_ALPHA = _Range(0, math.inf, "a number from 0")
_SETTINGS: Mapping[str, _Range] = {
    "sizes": _Range(1, math.inf, "pixels"),
    "randaug": _Range(0, math.inf, "a magnitude from 0"),
    "mixup": _ALPHA,
    "cutmix": _ALPHA,
    "dropout": _RATE,
    "drop_path": _RATE,
}
_BATCH = {"fixed": False, "grow": True}


@dataclass(frozen=True)
class Spec:
    """What was asked for, before the model is known. None among `settings` takes a preset's strength away."""

    preset: str | None = None
    arch: str | None = None
    settings: Mapping[str, Values | None] = field(default_factory=dict)
    grow_batch: bool = False

    def plan(self, model: str | None) -> Plan:
        """Return the plan for `model`, a name as timm's `create_model` takes it.

        Raises:
            EffNetExtError: The preset has no row for the model, or the settings make no plan.
        """
        settings = {**self._preset(model), **self.settings}
        return make_plan({k: v for k, v in settings.items() if v is not None}, grow_batch=self.grow_batch)

    def _preset(self, model: str | None) -> Mapping[str, Values]:
        if self.preset is None:
            return {}
        rows = PRESETS[self.preset]
        arch = self.arch or (model and row_name(model.partition(".")[0]))
        if not arch or arch not in rows:
            raise EffNetExtError(
                f"preset {self.preset!r} has no schedule for {arch or 'a program without --model'}. Name one that it "
                f"has ({', '.join(f'{self.preset}:{name}' for name in rows)}), or give sizes=128,185,242,300"
            )
        return rows[arch]


def parse(text: str) -> Spec:
    """Return what `text` asks for, e.g. "auto", "paper:efficientnetv2_s mixup=off" or "sizes=96,128 randaug=5:10".

    Raises:
        ValueError: A word is neither a preset nor a setting, or a value is not what its setting takes.
    """
    words = text.split()
    preset, arch = None, None
    if words and "=" not in words[0]:
        preset, arch = _parse_preset(words.pop(0))
    settings: dict[str, Values | None] = {}
    grow_batch = False
    for word in words:
        key, equals, value = word.partition("=")
        if key == "batch" and value in _BATCH:
            grow_batch = _BATCH[value]
        elif key in _SETTINGS and equals:
            settings[key] = _parse_values(key, value)
        else:
            known = [*(f"{name}=" for name in _SETTINGS), *(f"batch={name}" for name in _BATCH)]
            raise ValueError(f"{word!r} is no setting; there are {', '.join(known)}")
    if settings.get("sizes", ()) is None:
        raise ValueError("sizes=off leaves nothing to schedule")
    return Spec(preset, arch, settings, grow_batch)


def _parse_preset(word: str) -> tuple[str, str | None]:
    preset, _, arch = word.partition(":")
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; there are {', '.join(PRESETS)}, or give sizes=128,185,242,300")
    if arch and arch not in PRESETS[preset]:
        raise ValueError(f"preset {preset!r} has no {arch!r}; it has {', '.join(PRESETS[preset])}")
    return preset, arch or None


def _parse_values(key: str, text: str) -> Values | None:
    if text == OFF:
        return None
    separator = ":" if ":" in text else ","
    numbers = tuple(_parse_number(key, part) for part in text.split(separator))
    if separator == ",":
        return numbers if len(numbers) > 1 else Ramp(numbers[0], numbers[0])
    if len(numbers) != 2:
        raise ValueError(f"{key}={text}: a ramp is first:last")
    return Ramp(*numbers)


def _parse_number(key: str, text: str) -> float:
    allowed = _SETTINGS[key]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not allowed.least <= number < allowed.below:
        raise ValueError(f"{key}: {text!r} is not {allowed.what}; give first:last, one number a stage, or {OFF}")
    return number
