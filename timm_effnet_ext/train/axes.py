"""What a run's curves are drawn over: its epochs, or what training up to them took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.flops import count_flops
from timm_effnet_ext.train.runs import COST_FILE, Cost, Run


class Axis(NamedTuple):
    """What stands below the curves, and where on it each epoch of a run's summary lies."""

    label: str
    place: Callable[[Run], Sequence[float]]


def _add_seconds(run: Run) -> list[float]:
    return _add_up(run, lambda cost: cost.seconds)


def _add_flops(run: Run) -> list[float]:
    sizes = sorted({(cost.height, cost.width) for cost in run.costs})
    flops = count_flops(run.args, sizes)
    return _add_up(run, lambda cost: cost.images * flops[cost.height, cost.width])


def _add_up(run: Run, of: Callable[[Cost], float]) -> list[float]:
    """Return what all epochs took up to each that was summarised, that one included.

    Raises:
        EffNetExtError: Nobody wrote what one of them took.
    """
    took: dict[int, float] = {}
    for cost in run.costs:
        took[cost.epoch] = took.get(cost.epoch, 0) + of(cost)
    epochs = range(run.epochs[-1] + 1)
    missing = next((epoch for epoch in epochs if epoch not in took), None)
    if missing is not None:
        raise EffNetExtError(
            f"{run.name}: what epoch {missing} took is not known. {COST_FILE} says it where the launcher runs train.py "
            "from the first epoch on (python -m timm_effnet_ext run). Draw over epochs instead"
        )
    total = dict(zip(epochs, accumulate(took[epoch] for epoch in epochs), strict=True))
    return [total[epoch] for epoch in run.epochs]


EPOCH = "epoch"
AXES: Mapping[str, Axis] = {
    EPOCH: Axis("epoch", lambda run: run.epochs),
    "seconds": Axis("seconds of training", _add_seconds),
    "flops": Axis("FLOPs of training", _add_flops),
}
