"""Puts the progressive counterparts in place of timm's public names, and tells by stage and epoch what they do."""

from __future__ import annotations

import csv
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.models
import timm.utils
import torch
import torch.distributed as dist
from tabulate import tabulate
from timm.data import ScheduledBatchSampler
from torch import Tensor

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.hosts import loader_module
from timm_effnet_ext.train.patching import WrappedLoader, name_arguments, wrap_names
from timm_effnet_ext.train.progressive.plan import STRENGTHS, Plan, stage_of
from timm_effnet_ext.train.progressive.strengths import SizedFastCollateMixup, SizedMixup, set_drop_rates, write_policy
from timm_effnet_ext.train.runs import STAGES_FILE, csv_rows, whole_number

_logger = logging.getLogger(__name__)

COLUMNS = ("epoch", "stage", "batch_size", "images", "seconds", "images_per_second", "size", *STRENGTHS)
"""Of the CSV, a row an epoch. The first stage is 1; strengths that the program's own options set are empty."""


@contextmanager
def make_progressive(plan: Plan) -> Iterator[Recorder]:
    """Make timm progressive by `plan` inside the context, for whoever takes its public names there."""
    ours, loaders = _Progressive(plan), loader_module()
    with wrap_names(
        (timm, "create_model", ours.create_model),
        (timm.models, "create_model", ours.create_model),
        (timm.data, "create_loader", ours.create_loader),
        (timm.data, "create_naflex_loader", ours.refuse_naflex),
        (timm.data, "Mixup", ours.make_mixup),
        (timm.data, "FastCollateMixup", ours.make_collate_mixup),
        (loaders, "ScheduledBatchSampler", ours.make_sampler),
        (loaders, "create_transform", ours.create_transform),
        (timm.utils, "update_summary", ours.update_summary),
    ):
        yield ours.recorder


class StagedBatchSampler(ScheduledBatchSampler):
    """timm's batch sampler with Google's stages: equal parts of the run, one image size in each."""

    def choice_weights_for_epoch(self, epoch: int) -> Tensor:
        """Return 1 for the image size of the stage that `epoch` belongs to, 0 for the others."""
        weights = torch.zeros_like(self.choice_weights)
        weights[stage_of(epoch, self.schedule_epochs or 1, len(self.batch_sizes))] = 1.0
        return weights


class _Progressive:
    """What is called in place of timm's functions and classes, which come first among the arguments."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.recorder = Recorder(plan)

    def create_model(self, original: Callable[..., Any], model_name: str, *args: Any, **kwargs: Any) -> Any:
        """Call timm's `create_model` and tie what the model drops to the plan."""
        depth = self.plan.strengths("drop_path")
        if depth is not None:
            kwargs["drop_path_rate"] = max(depth)
        model = original(model_name, *args, **kwargs)
        set_drop_rates(model, self.plan)
        return model

    def create_loader(
        self,
        original: Callable[..., Any],
        dataset: Any,
        input_size: Any,
        batch_size: int,
        is_training: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call timm's `create_loader`, for a training loader with the plan's image and batch sizes.

        Raises:
            EffNetExtError: The program schedules image sizes itself, does not say how many epochs it trains, or trains
                fewer than there are stages.
        """
        if not is_training:
            return original(dataset, input_size, batch_size, is_training=False, **kwargs)
        if kwargs.get("input_size_choices") is not None:
            raise EffNetExtError("--train-img-sizes and --progressive both schedule image sizes: keep one of them")
        epochs = kwargs.get("batch_schedule_epochs")
        if not epochs:
            raise EffNetExtError(
                "--progressive needs a program that passes on --train-size-schedule, as timm's train.py"
            )
        if epochs < len(self.plan.stages):
            raise EffNetExtError(f"{epochs} epochs are fewer than the {len(self.plan.stages)} stages of --progressive")
        batch_sizes = self.plan.batch_sizes(batch_size)
        kwargs |= {"input_size_choices": self.plan.sizes, "batch_size_choices": batch_sizes}
        kwargs |= {"batch_choice_weights": None, "batch_choice_schedule": "progressive"}
        loader = original(dataset, input_size, batch_size, is_training=True, **kwargs)
        self.recorder.start(epochs, batch_sizes, eval_size=_side(input_size))
        return RecordingLoader(loader, self.recorder)

    def refuse_naflex(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Stop a program that asks for timm's loader of sequences, which has no image size to schedule."""
        raise EffNetExtError("--naflex-loader trains on sequences, --progressive on image sizes: keep one of them")

    def create_transform(
        self,
        original: Callable[..., Any],
        input_size: Any,
        is_training: bool = False,
        auto_augment: str | None = None,
        no_aug: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call timm's `create_transform`, for training with the RandAugment magnitude of the image size.

        Raises:
            EffNetExtError: The program does not augment, has a policy without a magnitude, or a magnitude of its own.
        """
        if is_training:
            if no_aug and self.plan.strengths("randaug") is not None:
                raise EffNetExtError(
                    "--no-aug turns off the RandAugment of --progressive: leave it out, or add randaug=off"
                )
            auto_augment = write_policy(self.plan, _side(input_size), auto_augment)
        return original(input_size, is_training=is_training, auto_augment=auto_augment, no_aug=no_aug, **kwargs)

    def make_sampler(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> StagedBatchSampler:
        """Make a batch sampler with Google's stages."""
        return StagedBatchSampler(*args, **kwargs)

    def make_mixup(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> SizedMixup:
        """Make a mixup of batches with the strengths of the plan."""
        return SizedMixup(self.plan, *args, **kwargs)

    def make_collate_mixup(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> SizedFastCollateMixup:
        """Make a mixup of samples with the strengths of the plan."""
        return SizedFastCollateMixup(self.plan, *args, **kwargs)

    def update_summary(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call timm's `update_summary` and bring our CSV beside its `filename` up to date."""
        original(*args, **kwargs)
        self.recorder.write(Path(name_arguments(original, args, kwargs)["filename"]).parent)


def _side(input_size: Any) -> int:
    return int(input_size if isinstance(input_size, int) else input_size[-1])


class Recorder:
    """Collects what the epochs trained on until the program says where its output goes.

    Only the first process of a distributed run speaks and writes; it speaks for all, which see the same sizes.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epochs = 0  # how many the run has; 0 until a training loader is made
        self._rows: dict[int, dict[str, str]] = {}  # by epoch, since the last call of `write`
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
        images *= dist.get_world_size() if dist.is_initialized() else 1
        rate = round(images / seconds, 1)
        values = (epoch, index + 1, batch_size, images, round(seconds, 3), rate, *astuple(stage))
        cells = ("" if value is None else f"{value:.6g}" for value in values)
        self._rows[epoch] = dict(zip(COLUMNS, cells, strict=True))
        _logger.info(
            "Progressive: epoch %d, stage %d of %d: %s, %.1f images/s",
            epoch,
            index + 1,
            len(self.plan.stages),
            ", ".join(f"{name} {_text(value)}" for name, value in asdict(stage).items() if value is not None),
            rate,
        )

    def write(self, folder: Path) -> None:
        """Add the epochs recorded since the last call to the CSV in `folder`, in place of rows of the same epochs.

        Raises:
            EffNetExtError: The CSV of the run that is resumed is damaged.
        """
        path = folder / STAGES_FILE
        if self._written is None:  # those of a run that is resumed
            self._written = _read_rows(path) if path.exists() else {}
        self._written |= self._rows
        self._rows.clear()
        with new_file(path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self._written[epoch] for epoch in sorted(self._written))


def _read_rows(path: Path) -> dict[int, dict[str, str]]:
    """Return the rows of a CSV that `Recorder` wrote, by epoch."""
    rows = {}
    for where, row in csv_rows(path):
        if tuple(row) != COLUMNS or None in row.values():
            raise EffNetExtError(f"{where}: not a row of a progressive run. Is the file damaged?")
        rows[whole_number(row["epoch"], f"{where}: epoch")] = row
    return rows


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
