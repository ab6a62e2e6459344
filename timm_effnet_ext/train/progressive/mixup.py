"""Mixup and CutMix whose strength is a function of the size of the images in the batch."""

from __future__ import annotations

import copy
from typing import Any

from timm.data import FastCollateMixup, Mixup

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.schedule import Plan, TrainStage


class SizedMixup(Mixup):
    """timm's `Mixup` of batches, one for each image size of a plan."""

    def __init__(self, plan: Plan, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_size = mixups_of(Mixup(*args, **kwargs), plan)

    def __call__(self, x: Any, target: Any) -> Any:
        mixup = self.by_size[x.shape[-1]]
        mixup.mixup_enabled = self.mixup_enabled
        return mixup(x, target)


class SizedFastCollateMixup(FastCollateMixup):
    """timm's `FastCollateMixup` of samples, one for each image size of a plan."""

    def __init__(self, plan: Plan, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_size = mixups_of(FastCollateMixup(*args, **kwargs), plan)

    def __call__(self, batch: Any, _: Any = None) -> Any:
        mixup = self.by_size[batch[0][0].shape[-1]]
        mixup.mixup_enabled = self.mixup_enabled
        return mixup(batch)


def mixups_of(given: Mixup, plan: Plan) -> dict[int, Any]:
    """Return `given` with the plan's strengths by image size; what the plan leaves is as the program made it.

    Raises:
        EffNetExtError: The plan sets a CutMix strength and the program a range that would replace it.
    """
    if given.cutmix_minmax is not None and plan.strengths("cutmix") is not None:
        raise EffNetExtError("--cutmix-minmax replaces the cutmix strength of --progressive: use one, or cutmix=off")
    return {stage.size: _at(stage, given) for stage in plan.stages}


def _at(stage: TrainStage, given: Mixup) -> Mixup:
    mixup = copy.copy(given)
    if stage.mixup is not None:
        mixup.mixup_alpha = stage.mixup
    if stage.cutmix is not None:
        mixup.cutmix_alpha = stage.cutmix
    if not (mixup.mixup_alpha > 0 or mixup.cutmix_alpha > 0):  # timm refuses that: mix never, only smooth the labels
        mixup.mixup_alpha, mixup.mix_prob = 1.0, 0.0
    return mixup
