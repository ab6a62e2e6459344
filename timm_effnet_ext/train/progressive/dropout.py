"""Gives a model dropout and stochastic depth whose rates are functions of the image size."""

from __future__ import annotations

from collections.abc import Iterator

from timm.layers import DropPath, drop_path
from torch import Tensor, nn

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.models.efficientnet import EfficientNet
from timm_effnet_ext.train.progressive.schedule import Plan


class SizedDropPath(DropPath):
    """timm's `DropPath` whose rate is looked up by the width of the feature map; other widths have `drop_prob`."""

    def __init__(self, drop_prob: float, rates: list[tuple[int, float]]) -> None:
        super().__init__(drop_prob)
        self.rates = rates

    def forward(self, x: Tensor) -> Tensor:
        drop_prob = self.drop_prob
        for width, rate in self.rates:
            if width == x.shape[-1]:
                drop_prob = rate
        return drop_path(x, drop_prob, self.training, self.scale_by_keep)


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
        model.drop_rate_at = list(zip(plan.sizes, dropout, strict=True))
    if depth is not None:
        _set_drop_path(model, plan.sizes, depth)


def _set_drop_path(model: EfficientNet, sizes: tuple[int, ...], depth: tuple[float, ...]) -> None:
    for block, reduction in _blocks(model):
        if not isinstance(block.drop_path, DropPath):
            continue
        widths = [-(-size // reduction) for size in sizes]
        if len(set(widths)) < len(widths):
            raise EffNetExtError(
                f"drop_path: images of {', '.join(map(str, sizes))} pixels have feature maps of "
                f"{', '.join(map(str, widths))} at stride {reduction}; give sizes that are {reduction} apart"
            )
        most = block.drop_path.drop_prob  # of this block, where the model was made with the plan's largest rate
        rates = [most * rate / max(depth) for rate in depth]
        block.drop_path = SizedDropPath(most, list(zip(widths, rates, strict=True)))


def _blocks(model: EfficientNet) -> Iterator[tuple[nn.Module, int]]:
    """Yield every block with the stride of its output."""
    for index, stage in enumerate(model.blocks.children(), start=1):
        reduction = next(tap["reduction"] for tap in model.feature_info if tap["stage"] >= index)
        for block in stage.children():
            yield block, reduction
