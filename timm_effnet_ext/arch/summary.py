"""The stage table of an architecture as its paper prints it, with sizes, parameters and multiply-accumulates.

Computed from the rows alone (standard library only).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from timm_effnet_ext.arch.layout import Layer, layers
from timm_effnet_ext.arch.rows import Arch, Stage

PARAMETERS = ("weight", "bias")  # the leaves that are trained; timm counts them alone
HEAD = "Conv1x1 & Pooling & FC"
OPERATORS = {"mb": "MBConv", "fused": "Fused-MBConv", "cond": "MBConv"}


class StageRow(NamedTuple):
    """One line of the table; stages count from 0, the stem, as in arXiv:2104.00298 Table 4."""

    stage: int
    operator: str
    stride: int
    channels: int
    layers: int
    resolution: int  # of its output, in pixels; of the head, before pooling
    params: int
    macs: int


@dataclass(frozen=True)
class Summary:
    """The table of one architecture for square images of `img_size` pixels."""

    arch: Arch
    img_size: int
    rows: tuple[StageRow, ...]

    @property
    def params(self) -> int:
        """Trained parameters, as `sum(p.numel() for p in model.parameters())`."""
        return sum(row.params for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and classifier for one image; papers call them FLOPs."""
        return sum(row.macs for row in self.rows)


def summarize(
    arch: Arch,
    img_size: int | None = None,
    *,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    depth_mult: float = 1.0,
) -> Summary:
    """Return the table; without `img_size` at the size that the architecture is evaluated at."""
    img_size = arch.eval_size if img_size is None else img_size
    stages = arch.blocks(width_mult, depth_mult)
    params: Counter[int] = Counter()
    macs: Counter[int] = Counter()
    resolution: dict[int, int] = {}
    size = img_size
    for layer in layers(arch, num_classes=num_classes, width_mult=width_mult, depth_mult=depth_mult):
        stage = _stage(layer, head=len(stages) + 1)
        size = resolution[stage] = math.ceil(size / layer.stride)  # SAME padding
        params[stage] += sum(math.prod(shape) for leaf, shape in layer.shapes().items() if leaf in PARAMETERS)
        macs[stage] += _macs(layer, size)
    lines = [
        ("Conv3x3", 2, arch.stem_width(width_mult), 1),
        *(
            (_operator(row, blocks[0].experts), row.stride, blocks[-1].out_chs, len(blocks))
            for row, blocks in zip(arch.stages, stages, strict=True)
        ),
        (HEAD, 1, arch.head_width(width_mult), 1),
    ]
    rows = (StageRow(i, *line, resolution[i], params[i], macs[i]) for i, line in enumerate(lines))
    return Summary(arch, img_size, tuple(rows))


def _stage(layer: Layer, head: int) -> int:
    if layer.block is not None:
        return layer.block.stage + 1
    return 0 if layer.role == "stem" else head


def _macs(layer: Layer, size: int) -> int:
    """Return the multiply-accumulates of one layer with an output of `size` x `size`; norms are folded away.

    A CondConv mixes all its experts' kernels once for an image.
    """
    if layer.kind == "norm":
        return 0
    is_pooled = layer.role in ("se", "routing", "classifier")
    mixing = math.prod(layer.shapes()["weight"]) if "condconv" in layer.kind else 0
    return math.prod(layer.kernel_shape) * (1 if is_pooled else size**2) + mixing


def _operator(stage: Stage, experts: int) -> str:
    squeeze = f", SE{stage.se:g}" if stage.se else ""
    mixed = f", {experts} experts" if experts else ""
    return f"{OPERATORS[stage.op]}{stage.expand}, k{stage.kernel}x{stage.kernel}{squeeze}{mixed}"
