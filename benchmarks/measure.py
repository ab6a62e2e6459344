"""Measures side by side: the same rounds for every contender, one after the other, and what each leaves in memory."""

from __future__ import annotations

import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

WARM_UP = 2


class Round(NamedTuple):
    """What one run took."""

    milliseconds: float
    faults: int
    """Pages of memory that the system gave the process, each of which it clears first."""


class Spread(NamedTuple):
    """What the rounds of one contender gave."""

    min: float
    median: float
    rounds: int
    faults: int | None = None
    """The fewest page faults of a round, where they were counted."""

    @classmethod
    def of(cls, values: Iterable[float], faults: Iterable[int] = ()) -> Spread:
        """Summarise the values of the rounds."""
        values = list(values)
        return cls(min(values), statistics.median(values), len(values), min(faults, default=None))

    @classmethod
    def of_rounds(cls, rounds: Sequence[Round]) -> Spread:
        """Summarise what `alternate` returns of one contender."""
        return cls.of((one.milliseconds for one in rounds), (one.faults for one in rounds))


def alternate(
    contenders: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, runs: int = 1
) -> dict[str, list[Round]]:
    """Return what each contender took in each round; the first two rounds warm up and are not counted.

    In its turn a contender runs `runs` times, of which the last counts: those before bring its weights and its code
    back into the processor's caches, as they are where one model computes all the time.
    """
    taken: dict[str, list[Round]] = {name: [] for name in contenders}
    for counted in [False] * WARM_UP + [True] * rounds:
        for name, run in contenders.items():
            for _ in range(runs - 1):
                run()
            faults, start = _page_faults(), time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if counted:
                milliseconds = (time.perf_counter() - start) * 1e3
                taken[name].append(Round(milliseconds, _page_faults() - faults))
    return taken


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Return the bytes that `forward` leaves behind for backward, without parameters and what was there before.

    That is what autograd saves, and what closures hold, as those of gradient checkpointing do; a storage counts once.
    """
    before = {t.untyped_storage().data_ptr() for t in (*_tensors(), *model.parameters())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in before:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
        for tensor in _tensors():
            if tensor is not output:
                keep(tensor)
    return sum(storage.nbytes() for storage in kept.values())


def live_bytes() -> int:
    """Return the bytes of all tensors that Python holds; a storage counts once."""
    storages = (tensor.untyped_storage() for tensor in _tensors())
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _tensors() -> list[Tensor]:
    gc.collect()
    return [x for x in gc.get_objects() if type(x) is Tensor and x.layout is torch.strided and not x.is_meta]


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the most device memory that `step` has in use at once, beyond what was in use before it."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def numbers_of(program: str, *args: Any) -> list[float]:
    """Return the numbers that a Python program of its own process prints."""
    done = subprocess.run([sys.executable, "-c", program, *map(str, args)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def with_deviation(values: Sequence[float], digits: int) -> str:
    """Return the mean, and the standard deviation where there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text
