"""The arms of `make bench-progressive`: what each trains on, and for how many epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from timm_effnet_ext.train.progressive.plan import Plan, parse, stage_of

SIZE = 96  # pixels: of the fixed size, of the last stage, and of every evaluation
_GROWING = "sizes=60,72,84,96 randaug=5:10 mixup=0:0.1 dropout=0.1:0.2"
# From 0.43 to 1 as in the paper (128 to 300 pixels, arXiv:2104.00298 Table 6).
_PAPER = "sizes=42,60,78,96 randaug=5:10 mixup=0:0.1 dropout=0.1:0.2"
# Two stages of five at the last size, as images of 95 and of 96 pixels have feature maps of one size.
_PAPER_LAST = "sizes=42,60,78,95,96 randaug=5,7,8,10,10 mixup=0,0.033,0.067,0.1,0.1 dropout=0.1,0.133,0.167,0.2,0.2"
_LAST_STRENGTHS = ("--aa", "rand-n2-m10-mmax10", "--mixup", "0.1", "--drop", "0.2")
_TIMM_SIZES = ("--train-img-sizes", "60", "72", "84", "96", "--train-size-schedule", "progressive")


class Arm(NamedTuple):
    """How train.py is run; `is_as_long` asks for the epochs that cost what the fixed size costs."""

    launcher: Sequence[str] = ()
    options: Sequence[str] = ()
    is_as_long: bool = False

    @property
    def plan(self) -> Plan | None:
        """The plan of a progressive arm."""
        return parse(self.launcher[-1]).plan(None) if self.launcher else None

    def epochs(self, fixed: int, flops: Callable[[int], float]) -> int:
        """Return how many epochs it trains where the fixed size trains `fixed`; `flops` is of an image by its size."""
        if not self.is_as_long or (plan := self.plan) is None:
            return fixed
        cost, most = fixed * flops(SIZE), fixed * len(plan.stages) * 2
        return min(range(fixed, most), key=lambda epochs: abs(_cost(plan.sizes, epochs, flops) - cost))


def _cost(sizes: Sequence[int], epochs: int, flops: Callable[[int], float]) -> float:
    return sum(flops(sizes[stage_of(epoch, epochs, len(sizes))]) for epoch in range(epochs))


FIXED = "fixed"
ARMS: Mapping[str, Arm] = {
    FIXED: Arm(options=_LAST_STRENGTHS),
    "longer": Arm(("--progressive", _GROWING), is_as_long=True),
    "paper-longer": Arm(("--progressive", _PAPER), is_as_long=True),
    "paper-last-longer": Arm(("--progressive", _PAPER_LAST), is_as_long=True),
    "progressive": Arm(("--progressive", _GROWING)),
    "sizes": Arm(options=(*_TIMM_SIZES, *_LAST_STRENGTHS)),
}
"""By name, that of the runs: what costs as much as the fixed size, what takes fewer FLOPs over as many epochs."""
