"""The schedules of the paper and of Google's code, by preset and architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from timm_effnet_ext.arch.rows import ARCHS

STAGES = 4  # arXiv:2104.00298 section 4.2; google/automl effnetv2_configs.py `stages=4`


@dataclass(frozen=True)
class Ramp:
    """A strength that moves linearly from the first stage to the last (arXiv:2104.00298 Algorithm 1)."""

    first: float
    last: float


Values = Ramp | tuple[float, ...]
"""What a strength is over the stages: a ramp, or one number a stage."""


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
