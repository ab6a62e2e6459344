"""Puts the progressive counterparts in place of timm's public names, before a program binds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.models
import timm.utils
import torch
from timm.data import ScheduledBatchSampler
from torch import Tensor

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.hosts import loader_module
from timm_effnet_ext.train.patching import name_arguments, wrap_names
from timm_effnet_ext.train.progressive.plan import Plan, stage_of
from timm_effnet_ext.train.progressive.record import Recorder, RecordingLoader
from timm_effnet_ext.train.progressive.strengths import SizedFastCollateMixup, SizedMixup, set_drop_rates, write_policy


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
        if kwargs.pop("input_size_choices", None) is not None:
            raise EffNetExtError("--train-img-sizes and --progressive both schedule image sizes: keep one of them")
        epochs = kwargs.pop("batch_schedule_epochs", None)
        if not epochs:
            raise EffNetExtError(
                "--progressive needs a program that passes on --train-size-schedule, as timm's train.py"
            )
        if epochs < len(self.plan.stages):
            raise EffNetExtError(f"{epochs} epochs are fewer than the {len(self.plan.stages)} stages of --progressive")
        batch_sizes = self.plan.batch_sizes(batch_size)
        loader = original(
            dataset,
            input_size,
            batch_size,
            is_training=True,
            **{
                **kwargs,
                "input_size_choices": self.plan.sizes,
                "batch_size_choices": batch_sizes,
                "batch_choice_weights": None,
                "batch_choice_schedule": "progressive",
                "batch_schedule_epochs": epochs,
            },
        )
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
