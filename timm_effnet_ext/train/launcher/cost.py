"""Writes what every epoch of a run cost, its images by size and its seconds, as timm's programs do not."""

from __future__ import annotations

import csv
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm.data
import timm.utils
import torch.distributed as dist

from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.train.patching import WrappedLoader, name_arguments, wrap_names
from timm_effnet_ext.train.runs import COST_FILE, Cost, read_costs


@contextmanager
def record_costs() -> Iterator[None]:
    """Record the costs inside the context, for whoever takes timm's public names there."""
    recorder = CostRecorder()
    with wrap_names(
        (timm.data, "create_loader", recorder.create_loader),
        (timm.utils, "update_summary", recorder.update_summary),
    ):
        yield


class CostRecorder:
    """Counts what passes over the training loader give, and writes it where the program writes its summary."""

    def __init__(self) -> None:
        self._passes: list[_Pass] = []  # since the last summary
        self._written: dict[int, list[Cost]] | None = None  # rows of the CSV by epoch, once it was looked for

    def create_loader(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call timm's `create_loader`, and count what it gives if it is for training."""
        loader = original(*args, **kwargs)
        return (
            _CountingLoader(loader, self._passes) if name_arguments(original, args, kwargs)["is_training"] else loader
        )

    def update_summary(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call timm's `update_summary`, and write the epochs up to its own beside its `filename`.

        The pass before a summary is the epoch that it is of, those before it are the epochs that had no evaluation.
        """
        original(*args, **kwargs)
        if not self._passes:  # its loader is of another kind
            return
        given = name_arguments(original, args, kwargs)
        path = Path(given["filename"]).parent / COST_FILE
        if self._written is None:  # those of a run that is resumed
            self._written = {}
            for cost in read_costs(path) if path.exists() else ():
                self._written.setdefault(cost.epoch, []).append(cost)
        for back, passed in enumerate(reversed(self._passes)):
            self._written[given["epoch"] - back] = passed.costs(given["epoch"] - back)
        self._passes.clear()
        with new_file(path) as part, part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Cost._fields)
            writer.writerows(row for epoch in sorted(self._written) for row in self._written[epoch])


@dataclass
class _Pass:
    images: Counter[tuple[int, int]] = field(default_factory=Counter)  # by height and width
    seconds: dict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))

    def costs(self, epoch: int) -> list[Cost]:
        """Return the rows of the CSV, one a size. Processes of a distributed run see the same sizes."""
        processes = dist.get_world_size() if dist.is_initialized() else 1
        return [
            Cost(epoch, *size, images * processes, round(self.seconds[size], 3))
            for size, images in sorted(self.images.items())
        ]


class _CountingLoader(WrappedLoader):
    """A loader that adds each pass over it to `passes`; the time of a batch includes waiting for it."""

    def __init__(self, loader: Any, passes: list[_Pass]) -> None:
        super().__init__(loader)
        self._passes = passes

    def __iter__(self) -> Iterator[Any]:
        now = _Pass()
        self._passes.append(now)
        began = time.perf_counter()
        for batch in self._loader:
            images, (height, width) = len(batch[0]), batch[0].shape[-2:]
            yield batch
            ended = time.perf_counter()
            now.images[height, width] += images
            now.seconds[height, width] += ended - began
            began = ended
