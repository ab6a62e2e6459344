"""Tells what a progressive run will do and what it did: the plan, a log line and a CSV row per epoch."""

from __future__ import annotations

import csv
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tabulate import tabulate

from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.train.loader import WrappedLoader
from timm_effnet_ext.train.progressive.plan import STRENGTHS, Plan, stage_of
from timm_effnet_ext.train.runs import STAGES_FILE, csv_rows

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRow:
    """What one epoch trained on: a row of the CSV. Strengths that the program's own options set are empty."""

    epoch: int
    stage: int  # the first is 1
    batch_size: int
    images: int
    seconds: float
    images_per_second: float
    size: int
    randaug: int | None
    mixup: float | None
    cutmix: float | None
    dropout: float | None
    drop_path: float | None


HEADERS = tuple(field.name for field in fields(EpochRow))


class Recorder:
    """Collects what the epochs trained on until the program says where its output goes.

    Only the first process of a distributed run speaks and writes; it speaks for all, which see the same sizes.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epochs = 0  # how many the run has; 0 until a training loader is made
        self._rows: list[EpochRow] = []
        self._written: dict[int, dict[str, str]] | None = None  # rows of the CSV by epoch, once it was looked for

    def start(self, epochs: int, batch_sizes: tuple[int, ...], eval_size: int) -> None:
        """Print the plan; call it before the first step."""
        self.epochs = epochs
        if not _is_primary():
            return
        print(plan_table(self.plan, epochs, batch_sizes), file=sys.stderr)
        print(f"evaluated at {eval_size} pixels", file=sys.stderr)

    def add(self, epoch: int, size: int, batch_size: int, images: int, seconds: float) -> None:
        """Record one epoch as it was seen by this process."""
        stage = self.plan.at(size)
        if stage is None or not _is_primary():
            return
        index = self.plan.stages.index(stage)
        images *= _world_size()
        row = EpochRow(
            epoch, index + 1, batch_size, images, round(seconds, 3), round(images / seconds, 1), **asdict(stage)
        )
        self._rows.append(row)
        _logger.info(
            "Progressive: epoch %d, stage %d of %d: %s, %.1f images/s",
            epoch,
            index + 1,
            len(self.plan.stages),
            ", ".join(f"{name} {_text(value)}" for name, value in asdict(stage).items() if value is not None),
            row.images_per_second,
        )

    def write(self, folder: Path) -> None:
        """Add the epochs recorded since the last call to the CSV in `folder`, in place of rows of the same epochs."""
        path = folder / STAGES_FILE
        if self._written is None:  # those of a run that is resumed
            self._written = {int(row["epoch"]): row for _, row in csv_rows(path)} if path.exists() else {}
        self._written.update((row.epoch, _cells(row)) for row in self._rows)
        self._rows.clear()
        with new_file(path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, HEADERS)
            writer.writeheader()
            writer.writerows(self._written[epoch] for epoch in sorted(self._written))


class RecordingLoader(WrappedLoader):
    """A loader of timm, with a record of what each pass over it gave."""

    def __init__(self, loader: Any, recorder: Recorder) -> None:
        super().__init__(loader)
        self._recorder = recorder

    def __iter__(self) -> Iterator[Any]:
        images = size = batch_size = 0
        began = time.perf_counter()
        for x, target in self._loader:
            images, size, batch_size = images + len(x), x.shape[-1], len(x)
            yield x, target
        seconds = time.perf_counter() - began
        self._recorder.add(self._loader.batch_sampler.epoch, size, batch_size, images, seconds)


def _is_primary() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def plan_table(plan: Plan, epochs: int, batch_sizes: tuple[int, ...]) -> str:
    """Return the plan as a table, one row a stage."""
    rows = []
    for index, (stage, batch_size) in enumerate(zip(plan.stages, batch_sizes, strict=True)):
        during = [epoch for epoch in range(epochs) if stage_of(epoch, epochs, len(plan.stages)) == index]
        strengths = (_text(value) for value in astuple(stage)[1:])
        rows.append([index + 1, f"{during[0]}–{during[-1]}", stage.size, batch_size, *strengths])
    return tabulate(rows, ["stage", "epochs", "size", "batch", *STRENGTHS], disable_numparse=True)


def _text(value: float | None) -> str:
    """Return a number as people write it; "–" where the program's own options decide."""
    return "–" if value is None else f"{value:g}" if isinstance(value, int) else f"{value:.3g}"


def _cells(row: EpochRow) -> dict[str, str]:
    return {name: "" if value is None else f"{value:.6g}" for name, value in asdict(row).items()}
