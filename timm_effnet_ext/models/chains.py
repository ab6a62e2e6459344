"""Which layers follow each other in a model, and which of them compute what their kind does and nothing else.

A chain is every convolution with the norm and the attention behind it. Whoever computes one by other means, as lean
training and packing do, asks of each layer whether it is known and nobody intercepts it; others are called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from timm.layers import BatchNormAct2d, DropPath, FrozenBatchNormAct2d
from torch import nn

from timm_effnet_ext.arch.layout import block_layers
from timm_effnet_ext.arch.rows import Block
from timm_effnet_ext.hosts import ACTIVATION_MODULES, is_intercepted
from timm_effnet_ext.models.blocks import BLOCKS, CondMBConv, DepthwiseSeparableConv, FusedConv, FusedMBConv, MBConv
from timm_effnet_ext.models.freeze import FrozenBatchNorm
from timm_effnet_ext.models.layers import CondConv2d, SiLU, SqueezeExcite, StridedSameConv2d

_logger = logging.getLogger(__name__)

Names = tuple[str, str, str | None]
"""A convolution, its norm and its attention, by attribute name."""

# Nothing but a chain and a shortcut; the convolutions of a CondMBConv take its routing, too.
_CHAINED = (MBConv, CondMBConv, DepthwiseSeparableConv, FusedMBConv, FusedConv)
_FROZEN_NORMS = (FrozenBatchNorm, FrozenBatchNormAct2d)


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


def is_row(module: nn.Module) -> bool:
    """Whether calling `module` is calling what it holds, one after the other."""
    return type(module) is nn.Sequential and not is_intercepted(module)


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


def warn_unknown(trunk: Any) -> None:
    """Log one line with the kinds of layers of `trunk` that go on keeping their activations, if there are any."""
    unknown = set()
    for link in model_links(trunk):
        checks: list[tuple[Any, Callable[[Any], bool]]]
        checks = [(link.conv, is_known_conv), (link.norm, is_known_norm), (link.attention, is_known_attention)]
        checks += [(link.norm.act, is_known_act)] if hasattr(link.norm, "act") else []
        unknown |= {type(layer).__name__ for layer, is_known in checks if not is_known(layer)}
    if unknown:
        _logger.warning("lean training: %s keep their activations, as without it", ", ".join(sorted(unknown)))


def is_known_conv(conv: Any) -> bool:
    """Whether `conv` is a plain convolution without bias, whose gradients lean training computes."""
    is_known = conv.halves if type(conv) is StridedSameConv2d else type(conv) is CondConv2d or is_plain_conv(conv)
    return is_known and conv.bias is None and not is_intercepted(conv)


def is_plain_conv(conv: Any) -> bool:
    """Whether `conv` is torch's own, with zeros around the image and as many as it says."""
    return type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def is_known_norm(norm: Any) -> bool:
    """Whether `norm` is a BatchNorm with statistics of its own, whose activation is all that follows it."""
    if type(norm) not in (BatchNormAct2d, *_FROZEN_NORMS) or is_intercepted(norm):
        return False
    has_drop = type(norm.drop) is not nn.Identity or is_intercepted(norm.drop)
    is_frozen = type(norm) in _FROZEN_NORMS
    return not has_drop and (is_frozen or (norm.track_running_stats and norm.momentum is not None))


def takes_statistics(norm: nn.Module) -> bool:
    """Whether a known norm takes mean and variance of its input now."""
    return norm.training and type(norm) not in _FROZEN_NORMS


def is_known_drop(drop: nn.Module) -> bool:
    """Whether `drop` leaves all as it is, or scales each image's whole map, by whatever schedule."""
    return (type(drop) is nn.Identity or isinstance(drop, DropPath)) and not is_intercepted(drop)


def is_known_act(act: nn.Module) -> bool:
    """Whether computing `act` twice gives the same value and changes nothing."""
    is_function = type(act) in (nn.Identity, SiLU) or type(act).__module__ in ACTIVATION_MODULES
    return is_function and not isinstance(act, nn.RReLU) and not list(act.parameters()) and not is_intercepted(act)


def is_known_attention(attention: Any) -> bool:
    """Whether `attention` is none, or squeeze-and-excitation as our blocks have it."""
    if attention is None:
        return True
    if type(attention) is not SqueezeExcite or any(map(is_intercepted, attention.modules())):
        return False
    convs = (attention.conv_reduce, attention.conv_expand)
    are_plain = all(is_plain_conv(conv) and conv.bias is not None for conv in convs)
    return are_plain and is_known_act(attention.act1) and type(attention.gate) is nn.Sigmoid
