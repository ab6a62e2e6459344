"""Makes timm's training loader progressive: hard equal stages, and one augmentation per image size."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from timm.data import ScheduledBatchSampler, rand_augment_transform
from torch import Tensor

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.record import Recorder, RecordingLoader
from timm_effnet_ext.train.progressive.schedule import Plan, stage_of

RANDAUGMENT = "rand-n2"
"""The program's `--aa` where it has none: two operations, as google/automl hparams.py `ra_num_layers`."""

_MAGNITUDE = re.compile(r"m(max)?\d+")


class StagedBatchSampler(ScheduledBatchSampler):
    """timm's batch sampler with Google's stages: equal parts of the run, one image size in each."""

    def choice_weights_for_epoch(self, epoch: int) -> Tensor:
        """Return 1 for the image size of the stage that `epoch` belongs to, 0 for the others."""
        weights = torch.zeros_like(self.choice_weights)
        weights[stage_of(epoch, self.schedule_epochs or 1, len(self.batch_sizes))] = 1.0
        return weights


def create_loader(
    plan: Plan,
    recorder: Recorder,
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
        raise EffNetExtError("--progressive needs a program that passes on --train-size-schedule, as timm's train.py")
    if epochs < len(plan.stages):
        raise EffNetExtError(f"{epochs} epochs are fewer than the {len(plan.stages)} stages of --progressive")
    batch_sizes = plan.batch_sizes(batch_size)
    loader = original(
        dataset,
        input_size,
        batch_size,
        is_training=True,
        **{
            **kwargs,
            "input_size_choices": plan.sizes,
            "batch_size_choices": batch_sizes,
            "batch_choice_weights": None,
            "batch_choice_schedule": "progressive",
            "batch_schedule_epochs": epochs,
        },
    )
    recorder.start(epochs, batch_sizes, eval_size=_side(input_size))
    return RecordingLoader(loader, recorder)


def create_transform(
    plan: Plan,
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
        if no_aug and plan.strengths("randaug") is not None:
            raise EffNetExtError(
                "--no-aug turns off the RandAugment of --progressive: leave it out, or add randaug=off"
            )
        auto_augment = policy_at(plan, _side(input_size), auto_augment)
    return original(input_size, is_training=is_training, auto_augment=auto_augment, no_aug=no_aug, **kwargs)


def policy_at(plan: Plan, size: int, given: str | None) -> str | None:
    """Return timm's policy text for images of `size`: the program's own with the plan's magnitude in it.

    Raises:
        EffNetExtError: The program's own policy has no magnitude to set, sets another, or cannot do this one.
    """
    magnitudes, stage = plan.strengths("randaug"), plan.at(size)
    if magnitudes is None or stage is None:
        return given
    kind, *options = (given or RANDAUGMENT).split("-")
    if kind != "rand":
        raise EffNetExtError(f"--aa {given} has no magnitude to schedule: use a 'rand-…' policy, or randaug=off")
    last = max(magnitudes)
    own = [option for option in options if _MAGNITUDE.fullmatch(option)]
    if clash := [option for option in own if option not in (f"m{last:g}", f"mmax{last:g}")]:
        raise EffNetExtError(
            f"{'-'.join(clash)} of --aa {given} beside randaug={magnitudes[0]:g}:{magnitudes[-1]:g} of --progressive: "
            "leave it out there, or write randaug=off"
        )
    # Without mmax timm clips magnitudes at 10; with `mstd` it clips the noise there.
    policy = "-".join([kind, *(option for option in options if option not in own), f"m{stage.randaug}", f"mmax{last}"])
    _check_policy(policy)
    return policy


def _check_policy(policy: str) -> None:
    """Try every operation of a RandAugment policy: some fail at some magnitudes, in training only by chance."""
    image = Image.new("RGB", (8, 8))
    for op in rand_augment_transform(policy).ops:
        op.prob = 1.0
        try:
            op(image)
        except ValueError as err:
            raise EffNetExtError(
                f"{op.name} of {policy} fails: {err}. Give another randaug=first:last, or another policy with --aa"
            ) from err


def _side(input_size: Any) -> int:
    return int(input_size if isinstance(input_size, int) else input_size[-1])
