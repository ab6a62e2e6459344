"""Which layers follow each other in a model: every convolution with the norm and the attention behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from timm_effnet_ext.models.blocks import CondMBConv, DepthwiseSeparableConv, FusedConv, FusedMBConv, MBConv

# Block -> names of (convolution, norm, attention), in the order of computation.
_CHAINS: dict[type[nn.Module], tuple[tuple[str, str, str | None], ...]] = {
    MBConv: (("conv_pw", "bn1", None), ("conv_dw", "bn2", "se"), ("conv_pwl", "bn3", None)),
    CondMBConv: (("conv_pw", "bn1", None), ("conv_dw", "bn2", "se"), ("conv_pwl", "bn3", None)),
    DepthwiseSeparableConv: (("conv_dw", "bn1", "se"), ("conv_pw", "bn2", None)),
    FusedMBConv: (("conv_exp", "bn1", "se"), ("conv_pwl", "bn2", None)),
    FusedConv: (("conv", "bn1", None),),
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


def is_intercepted(module: nn.Module) -> bool:
    """Whether calling `module` is more than its class's forward: hooks, a forward of its own, a compiled one."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or has_own_forward(module) or module._compiled_call_impl is not None


def has_own_forward(module: nn.Module) -> bool:
    """Whether `module` has a forward of its own in place of its class's."""
    return "forward" in vars(module)


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
