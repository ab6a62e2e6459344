"""Which layers follow each other in a model: every convolution with the norm and the attention behind it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from torch import nn

from timm_effnet_ext.arch.layout import block_layers
from timm_effnet_ext.arch.rows import Block
from timm_effnet_ext.hosts import is_intercepted
from timm_effnet_ext.models.blocks import BLOCKS, CondMBConv, DepthwiseSeparableConv, FusedConv, FusedMBConv, MBConv

Names = tuple[str, str, str | None]
"""A convolution, its norm and its attention, by attribute name."""

# Nothing but a chain and a shortcut; the convolutions of a CondMBConv take its routing, too.
_CHAINED = (MBConv, CondMBConv, DepthwiseSeparableConv, FusedMBConv, FusedConv)


def _chain(kind: tuple[Any, bool]) -> tuple[Names, ...]:
    """Return the chain of a kind of block, in the order of computation: the roles of its layers say what belongs."""
    op, expands = kind
    block = Block(0, 0, op, 1, 1, 1, kernel=1, stride=1, expand=2 if expands else 1, se_chs=1, shortcut=False)
    names: list[Names] = []
    chained = (layer for layer in block_layers(block) if layer.role != "routing")
    for role, layers in groupby(chained, key=attrgetter("role")):
        first, second = (layer.name.split(".")[3] for layer in layers)
        if role == "se":  # both are within the attention, which belongs to the convolution before it
            conv, norm, _ = names.pop()
            names.append((conv, norm, first))
        else:
            names.append((first, second, None))
    return tuple(names)


_CHAINS: dict[type[nn.Module], tuple[Names, ...]] = {
    block: _chain(kind) for kind, block in BLOCKS.items() if block in _CHAINED
}


class Link(NamedTuple):
    """A convolution of `owner` and what follows it, by attribute name."""

    owner: nn.Module
    conv_name: str
    norm_name: str
    attention_name: str | None = None

    @property
    def conv(self) -> Any:
        """The convolution."""
        return getattr(self.owner, self.conv_name)

    @property
    def norm(self) -> Any:
        """The norm, with the activation where there is one."""
        return getattr(self.owner, self.norm_name)

    @property
    def attention(self) -> nn.Module | None:
        """The channel attention; None without one."""
        attention = getattr(self.owner, self.attention_name) if self.attention_name else None
        return None if type(attention) is nn.Identity and not is_intercepted(attention) else attention


def has_chain(module: nn.Module) -> bool:
    """Whether `module` is one of our blocks, which are nothing but a chain and a shortcut."""
    return type(module) in _CHAINS


def block_links(block: nn.Module) -> Iterator[Link]:
    """Yield the links of one block in the order of computation; none for any other module."""
    for names in _CHAINS.get(type(block), ()):
        yield Link(block, *names)


def model_links(model: nn.Module) -> Iterator[Link]:
    """Yield the links of the stem, of all blocks and, where there is one, of the head."""
    yield Link(model, "conv_stem", "bn1")
    for module in model.modules():
        yield from block_links(module)
    if hasattr(model, "conv_head"):
        yield Link(model, "conv_head", "bn2")
