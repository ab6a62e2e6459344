"""The text of `--progressive`: a preset, then settings that override it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from timm_effnet_ext.arch.rows import row_name
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.schedule import PRESETS, Plan, Ramp, Values, make_plan

OFF = "off"


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
