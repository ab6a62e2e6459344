"""What an architecture's state_dict holds: layers, keys and shapes computed from its row, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from timm_effnet_ext.arch.rows import Arch, Block

Shape = tuple[int, ...]
LayerKind = Literal["conv", "depthwise", "condconv", "depthwise_condconv", "norm", "linear"]
Role = Literal["stem", "routing", "expand", "depthwise", "se", "project", "head", "classifier"]
"""What layers do together: a convolution and its norm, the two convolutions of an attention, or one layer by itself."""

NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
COUNTER_LEAF = "num_batches_tracked"


class Layer(NamedTuple):
    """One layer with weights; `name` is its module path, e.g. `blocks.3.2.conv_dw`, `block` the block that it is in."""

    name: str
    role: Role
    block: Block | None
    kind: LayerKind
    in_chs: int
    out_chs: int
    kernel: int = 1
    stride: int = 1
    bias: bool = False

    @property
    def kernel_shape(self) -> Shape:
        """The shape (O, I, kH, kW) of the kernel of a convolution, which a CondConv mixes from those of experts."""
        return self.out_chs, 1 if "depthwise" in self.kind else self.in_chs, self.kernel, self.kernel

    def shapes(self) -> dict[str, Shape]:
        """Return the layer's leaves, e.g. {"weight": (O, I, kH, kW)}."""
        if self.kind == "norm":
            return dict.fromkeys(NORM_LEAVES, (self.out_chs,)) | {COUNTER_LEAF: ()}
        weight = self.kernel_shape
        if self.kind == "linear":
            weight = weight[:2]
        elif "condconv" in self.kind and self.block is not None:
            weight = (self.block.experts, math.prod(weight))
        return {"weight": weight} | ({"bias": (self.out_chs,)} if self.bias else {})


def layers(
    arch: Arch,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    width_mult: float = 1.0,
    depth_mult: float = 1.0,
    head: bool = True,
) -> tuple[Layer, ...]:
    """Return every layer with weights in the order of computation.

    `num_classes=0` has no classifier; without `head` there is none either, nor what comes before the pooling.
    """
    stem, width = arch.stem_width(width_mult), arch.head_width(width_mult)
    stages = arch.blocks(width_mult, depth_mult)
    out = [
        Layer("conv_stem", "stem", None, "conv", in_chans, stem, 3, 2),
        Layer("bn1", "stem", None, "norm", stem, stem),
    ]
    for stage in stages:
        for block in stage:
            out += block_layers(block)
    last = stages[-1][-1].out_chs
    if head:
        out += [Layer("conv_head", "head", None, "conv", last, width), Layer("bn2", "head", None, "norm", width, width)]
    if head and num_classes:
        out.append(Layer("classifier", "classifier", None, "linear", width, num_classes, bias=True))
    return tuple(out)


def block_layers(block: Block) -> Iterator[Layer]:
    """Yield the layers of one block, named below `blocks.{stage}.{index}`; module names are timm's."""
    i, m, r, o = block.in_chs, block.mid_chs, block.se_chs, block.out_chs
    k, s, e = block.kernel, block.stride, block.experts
    se = ("se", ("se.conv_reduce", "conv", m, r, 1, 1, True), ("se.conv_expand", "conv", r, m, 1, 1, True))
    parts: dict[tuple[str, bool], tuple[tuple, ...]] = {
        ("mb", True): (
            ("expand", ("conv_pw", "conv", i, m), ("bn1", "norm", m, m)),
            ("depthwise", ("conv_dw", "depthwise", m, m, k, s), ("bn2", "norm", m, m)),
            se,
            ("project", ("conv_pwl", "conv", m, o), ("bn3", "norm", o, o)),
        ),
        ("mb", False): (
            ("depthwise", ("conv_dw", "depthwise", m, m, k, s), ("bn1", "norm", m, m)),
            se,
            ("project", ("conv_pw", "conv", m, o), ("bn2", "norm", o, o)),
        ),
        ("fused", True): (
            ("expand", ("conv_exp", "conv", i, m, k, s), ("bn1", "norm", m, m)),
            se,
            ("project", ("conv_pwl", "conv", m, o), ("bn2", "norm", o, o)),
        ),
        ("fused", False): (("project", ("conv", "conv", i, o, k, s), ("bn1", "norm", o, o)),),
        ("cond", True): (
            ("routing", ("routing_fn", "linear", i, e, 1, 1, True)),
            ("expand", ("conv_pw", "condconv", i, m), ("bn1", "norm", m, m)),
            ("depthwise", ("conv_dw", "depthwise_condconv", m, m, k, s), ("bn2", "norm", m, m)),
            se,
            ("project", ("conv_pwl", "condconv", m, o), ("bn3", "norm", o, o)),
        ),
    }  # fmt: skip
    for role, *rows in parts[block.kind]:
        for name, *rest in rows if r or role != "se" else ():
            yield Layer(f"blocks.{block.stage}.{block.index}.{name}", role, block, *rest)


def state_shapes(layer_list: tuple[Layer, ...]) -> dict[str, Shape]:
    """Return key -> shape of the state_dict that holds `layer_list`."""
    return {f"{layer.name}.{leaf}": shape for layer in layer_list for leaf, shape in layer.shapes().items()}
