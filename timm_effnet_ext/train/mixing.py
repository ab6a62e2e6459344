"""Mixup and CutMix whose strength is a function of the size of the images in the batch."""

from __future__ import annotations

from typing import Any

from timm.data import FastCollateMixup, Mixup

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.schedule import Plan, TrainStage

_NO_MIXING = {"mixup_alpha": 1.0, "prob": 0.0}  # timm refuses two zero alphas; this only smooths the labels


class SizedMixup(Mixup):
    """timm's `Mixup` of batches, one for each image size of a plan."""

    def __init__(self, plan: Plan, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by_size = {stage.size: Mixup(**alphas_at(stage, kwargs)) for stage in plan.stages}

    def __call__(self, x: Any, target: Any) -> Any:
        mixup = self.by_size[x.shape[-1]]
        mixup.mixup_enabled = self.mixup_enabled
        return mixup(x, target)


class SizedFastCollateMixup(FastCollateMixup):
    """timm's `FastCollateMixup` of samples, one for each image size of a plan."""

    def __init__(self, plan: Plan, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by_size = {stage.size: FastCollateMixup(**alphas_at(stage, kwargs)) for stage in plan.stages}

    def __call__(self, batch: Any, _: Any = None) -> Any:
        mixup = self.by_size[batch[0][0].shape[-1]]
        mixup.mixup_enabled = self.mixup_enabled
        return mixup(batch)


def alphas_at(stage: TrainStage, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of timm's `Mixup` at `stage`: the program's own where the plan sets none.

    Raises:
        EffNetExtError: The plan sets a CutMix strength and the program a range that would replace it.
    """
    if stage.cutmix is not None and given.get("cutmix_minmax") is not None:
        raise EffNetExtError("--cutmix-minmax replaces the cutmix strength of --progressive: use one, or cutmix=off")
    alphas = {"mixup_alpha": stage.mixup, "cutmix_alpha": stage.cutmix}
    args = {**given, **{name: alpha for name, alpha in alphas.items() if alpha is not None}}
    mixes = args.get("cutmix_minmax") or args["mixup_alpha"] > 0 or args["cutmix_alpha"] > 0
    return args if mixes else {**args, **_NO_MIXING}
