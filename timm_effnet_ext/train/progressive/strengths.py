"""RandAugment, Mixup, CutMix, dropout and stochastic depth whose strength is a function of the image size."""
# No postponed annotations here: TorchScript needs the types themselves.

import copy
import re
from typing import Any

import torch.nn.functional as F
from PIL import Image
from timm.data import FastCollateMixup, Mixup, rand_augment_transform
from timm.layers import DropPath, drop_path
from torch import Tensor, nn

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.models.efficientnet import EfficientNet
from timm_effnet_ext.train.progressive.plan import Plan, TrainStage

RANDAUGMENT = "rand-n2"
"""The program's `--aa` where it has none: two operations, as google/automl hparams.py `ra_num_layers`."""

_MAGNITUDE = re.compile(r"m(max)?\d+")


class SizedMixup(Mixup):
    """timm's `Mixup` of batches, one for each image size of a plan."""

    def __init__(self, plan: Plan, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_size = make_mixups(Mixup(*args, **kwargs), plan)

    def __call__(self, x: Any, target: Any) -> Any:
        mixup = self.by_size[x.shape[-1]]
        mixup.mixup_enabled = self.mixup_enabled
        return mixup(x, target)


class SizedFastCollateMixup(FastCollateMixup):
    """timm's `FastCollateMixup` of samples, one for each image size of a plan."""

    def __init__(self, plan: Plan, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_size = make_mixups(FastCollateMixup(*args, **kwargs), plan)

    def __call__(self, batch: Any, _: Any = None) -> Any:
        mixup = self.by_size[batch[0][0].shape[-1]]
        mixup.mixup_enabled = self.mixup_enabled
        return mixup(batch)


def make_mixups(given: Mixup, plan: Plan) -> dict[int, Any]:
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


def write_policy(plan: Plan, size: int, given: str | None) -> str | None:
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


class SizedDropPath(DropPath):
    """timm's `DropPath` whose rate is looked up by the width of the feature map; other widths have `drop_prob`."""

    def __init__(self, drop_prob: float, rates: list[tuple[int, float]]) -> None:
        super().__init__(drop_prob)
        self.rates = rates

    def forward(self, x: Tensor) -> Tensor:
        drop_prob = self.drop_prob
        if self.training:  # else an exporter would tie its graph to a size for nothing
            for width, rate in self.rates:
                if width == x.shape[-1]:
                    drop_prob = rate
        return drop_path(x, drop_prob, self.training, self.scale_by_keep)


class SizedEfficientNet(EfficientNet):
    """Our classifier whose dropout rate is looked up by the width of the images; others have `drop_rate`."""

    rates: list[tuple[int, float]]

    def forward(self, x: Tensor) -> Tensor:
        drop_rate = self.drop_rate
        if self.training:  # here as well
            for width, rate in self.rates:
                if width == x.shape[-1]:
                    drop_rate = rate
        x = self.global_pool(self.forward_features(x))
        return self.classifier(F.dropout(x, drop_rate, self.training))


def set_drop_rates(model: nn.Module, plan: Plan) -> None:
    """Tie the dropout and stochastic depth of `model` to the sizes of `plan`, as far as the plan sets them.

    Raises:
        EffNetExtError: The model is not one of ours, or two sizes have feature maps that cannot be told apart.
    """
    dropout, depth = plan.strengths("dropout"), plan.strengths("drop_path")
    if dropout is None and depth is None:
        return
    if not isinstance(model, EfficientNet):
        raise EffNetExtError(
            f"{type(model).__name__} does not know the image size where it drops: "
            "use a hucorz_* model, or add dropout=off drop_path=off"
        )
    if dropout is not None:
        sized: Any = model
        sized.__class__ = SizedEfficientNet  # torch.nn.utils.parametrize gives modules another class, too
        sized.rates = list(zip(plan.sizes, dropout, strict=True))
    if depth is not None:
        _set_drop_path(model, plan.sizes, depth)


def _set_drop_path(model: EfficientNet, sizes: tuple[int, ...], depth: tuple[float, ...]) -> None:
    for index, stage in enumerate(model.blocks.children(), start=1):
        reduction = next(tap["reduction"] for tap in model.feature_info if tap["stage"] >= index)
        widths = [-(-size // reduction) for size in sizes]
        for block in stage.children():
            if not isinstance(block.drop_path, DropPath):
                continue
            if len(set(widths)) < len(widths):
                raise EffNetExtError(
                    f"drop_path: images of {', '.join(map(str, sizes))} pixels have feature maps of "
                    f"{', '.join(map(str, widths))} at stride {reduction}; give sizes that are {reduction} apart"
                )
            most = block.drop_path.drop_prob  # the model was made with the plan's largest rate
            rates = [most * rate / max(depth) for rate in depth]
            block.drop_path = SizedDropPath(most, list(zip(widths, rates, strict=True)))
