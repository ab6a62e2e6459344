"""What `make gpu` does, in the order of worth, with what it takes: laws first, what has to be compiled last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from benchmarks.gpu.comparisons import COMPILED, EAGER, learn_progressively, predict, train
from benchmarks.gpu.laws import LAWS, try_law
from benchmarks.gpu.training import Verdict
from benchmarks.parts import Options
from benchmarks.tables import Table


class Item(NamedTuple):
    """Something to be done by itself."""

    part: str
    seconds: int  # that it takes on a fast GPU, an estimate
    run: Callable[[Options], Iterable[Verdict | Table]]
    is_compiled: bool = False  # by inductor, which takes minutes on a CPU and is left out there


def _laws(name: str) -> Item:
    return Item("laws", 20 if name == "torch.compile" else 10, lambda options: [try_law(name, options)])


def _train(arch: str, size: int, seconds: int) -> Item:
    return Item("train", seconds, partial(train, arch=arch, size=size, contenders=EAGER))


def _compile(arch: str, size: int, seconds: int) -> Item:
    return Item("compiled", seconds, partial(train, arch=arch, size=size, contenders=COMPILED), is_compiled=True)


ITEMS: dict[str, Item] = {
    **{f"law: {name}": _laws(name) for name in LAWS},
    "B0 @224": _train("efficientnet_b0", 224, 20),
    "V2-S @300": _train("efficientnetv2_s", 300, 40),
    "B4 @380": _train("efficientnet_b4", 380, 50),
    "progressive learning": Item("progressive", 40, learn_progressively),
    "B0 @224, compiled": _compile("efficientnet_b0", 224, 80),
    "inference of B0": Item("inference", 60, partial(predict, arch="efficientnet_b0", size=224)),
    "V2-S @300, compiled": _compile("efficientnetv2_s", 300, 120),
    "inference of V2-S": Item("inference", 80, partial(predict, arch="efficientnetv2_s", size=300)),
    "B4 @380, compiled": _compile("efficientnet_b4", 380, 120),
}
PARTS = tuple(dict.fromkeys(item.part for item in ITEMS.values()))
