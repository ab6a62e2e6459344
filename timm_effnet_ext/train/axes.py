"""What a run's curves are drawn over: its epochs, or the seconds or FLOPs that training up to them took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.runs import COST_FILE, Cost, Run

_BATCH = 2  # BatchNorm takes no statistics of one value


class Axis(NamedTuple):
    """What stands below the curves, and where on it each epoch of a run's summary lies."""

    label: str
    place: Callable[[Run], Sequence[float]]


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
    "seconds": Axis("seconds of training", lambda run: _add_up(run, lambda cost: cost.seconds)),
    "flops": Axis("FLOPs of training", _add_flops),
}


def count_flops(args: Mapping[str, Any], sizes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the FLOPs of an image of each (height, width), for the model that `args` of train.py describe.

    A multiplication and its addition are two. What is frozen has no backward pass; what memory saving computes twice
    counts once. Nothing is computed: the tensors have shapes, and no values.

    Raises:
        EffNetExtError: timm makes no such model, or it does not take images of a size.
    """
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    names = {name: args[name] for name in ("num_classes", "in_chans") if args.get(name) is not None}
    rules = {torch.ops.aten.convolution_backward: _count_backward}
    counts: dict[tuple[int, int], int] = {}
    try:
        with torch.device("meta"):
            kwargs: dict[str, Any] = {**(args.get("model_kwargs") or {}), **names}
            model = timm.create_model(args["model"], pretrained=False, **kwargs).train()
            for height, width in sizes:
                images = torch.zeros(_BATCH, names.get("in_chans", 3), height, width)
                with FlopCounterMode(display=False, custom_mapping=rules) as counter:
                    model(images).sum().backward()
                counts[height, width] = counter.get_total_flops() // _BATCH
    except Exception as err:  # whatever a model of timm's raises
        reason = " ".join(str(err).split()) or type(err).__name__
        raise EffNetExtError(f"FLOPs of {args.get('model')} cannot be counted: {reason}") from err
    return counts


def _count_backward(grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **other: Any) -> int:
    """Return the FLOPs of a convolution's backward pass: those of its forward, for each gradient that is asked for.

    torch's own rule takes the weights' gradient of a grouped convolution for that of a dense one (2.14.1).
    """
    *_, transposed, _, _, asked = rest
    images, _, *places = x if transposed else grad
    return sum(asked[:2]) * 2 * prod(weight) * images * prod(places)
