"""Inference on a CPU by oneDNN's fused convolutions, whose weights are put in its order once for images of one size.

torch makes three passes over a feature map for a convolution, its activation and the sum with the shortcut, and brings
the weights into oneDNN's order at each call. Here a folded network is walked as a chain of links, as lean training
walks it, and each link is one call of oneDNN. Whatever is something else, or is watched by hooks, is called as it is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_effnet_ext.hosts import convolve_packed, is_intercepted, is_observed, onednn_serves, pack_weight
from timm_effnet_ext.models.blocks import CondMBConv
from timm_effnet_ext.models.chains import (
    Link,
    block_links,
    has_chain,
    is_known_act,
    is_known_attention,
    is_known_drop,
    is_plain_conv,
    is_row,
)
from timm_effnet_ext.models.layers import SiLU, StridedSameConv2d, is_eager

_FUSED_ACTS: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.Identity: ("none", ()),
    SiLU: ("swish", ()),
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("hardtanh", ("min_val", "max_val")),
    nn.Sigmoid: ("sigmoid", ()),
}
"""What oneDNN calls an activation, and which attributes are its numbers; others are applied to what it returns."""


class Packing:
    """How a model is computed: its chains, the weights in oneDNN's order once a size of images comes twice in a row.

    They take the memory of the weights once more. Copies of a model, and what `torch.save` writes, begin without them.
    """

    def __init__(self) -> None:
        self._chains: dict[Any, _Chain] = {}

    def __deepcopy__(self, memo: Any) -> Packing:
        return Packing()

    def __reduce__(self) -> Any:
        return Packing, ()

    def applies(self, trunk: Any, image: Any) -> bool:
        """Whether `image` is computed eagerly, unobserved and without a backward, on a CPU that oneDNN serves."""
        is_plain = type(image) is Tensor and is_eager(image) and not is_observed()
        if not is_plain or torch.is_grad_enabled() or trunk.training or torch.is_autocast_enabled("cpu"):
            return False
        weight = next(trunk.parameters(), image)
        is_here = image.device.type == "cpu" == weight.device.type and image.dtype == weight.dtype
        is_fit = is_here and image.ndim == 4 and image.numel() > 0
        return is_fit and is_row(trunk.blocks) and onednn_serves(image.dtype)

    def features(self, model: Any, image: Tensor) -> Tensor:
        """Return `model.forward_features(image)`."""
        return self._layer(Link(model, "conv_head", "bn2"), self.stages(model, image)[-1])

    def stages(self, trunk: Any, image: Tensor) -> list[Tensor]:
        """Return the outputs of the stem and of each stage of `trunk`."""
        image = image.contiguous(memory_format=torch.channels_last)
        outputs = [self._layer(Link(trunk, "conv_stem", "bn1"), image)]
        for stage in trunk.blocks:
            outputs.append(self._run(stage, outputs[-1]))
        return outputs

    def _layer(self, link: Link, x: Tensor) -> Tensor:
        """Return what a single link makes of `x`."""
        modules = (link.conv, link.norm)
        chain = self._chains.get(modules)
        if chain is None or not chain.holds():
            chain = self._chains[modules] = _Chain((link,), modules)
        return chain(x, None) if chain.steps else link.norm(link.conv(x))  # type: ignore[no-any-return]

    def _run(self, module: Any, x: Tensor) -> Tensor:
        """Return the output of a block, or of blocks in a row."""
        if is_row(module):
            for child in module:
                x = self._run(child, x)
            return x
        chain = self._chains.get(module)
        if chain is None or not chain.holds():
            links = tuple(block_links(module)) if _is_chain(module) else ()
            chain = self._chains[module] = _Chain(links, tuple(module.modules()))
        if not chain.steps or module.drop_path.training:
            return module(x)  # type: ignore[no-any-return]
        return chain(x, x if module.has_skip else None)


class _Chain:
    """Links in a row, and the modules of which they are made, as long as those are what they were."""

    def __init__(self, links: tuple[Link, ...], modules: tuple[nn.Module, ...]) -> None:
        self._modules = modules
        self._children = [(m._modules, tuple(m._modules.values())) for m in modules if m._modules]
        self._kinds = self._kinds_now()
        self._was_watched = self._is_watched()
        self.steps = [_Step(link) for link in links] if all(map(_is_known, links)) else []

    def holds(self) -> bool:
        """Whether the modules are those that they were when the chain was made, and are watched if they were."""
        for now, then in self._children:
            if tuple(now.values()) != then:
                return False
        return self._kinds_now() == self._kinds and self._is_watched() == self._was_watched

    def _kinds_now(self) -> list[Any]:
        """Return what decides which steps they are: a parametrization changes the class, and anybody the padding."""
        return [(type(module), vars(module).get("padding_mode")) for module in self._modules]

    def _is_watched(self) -> bool:
        return any(map(is_intercepted, self._modules))

    def __call__(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        last = self.steps[-1]
        for step in self.steps:
            x = step(x, shortcut if step is last else None)
        return x


def _is_chain(module: Any) -> bool:
    is_chain = has_chain(module) and type(module) is not CondMBConv and not is_intercepted(module)
    return is_chain and is_known_drop(module.drop_path)


def _is_known(link: Link) -> bool:
    conv = link.conv
    is_conv = (is_plain_conv(conv) or type(conv) is StridedSameConv2d) and not is_intercepted(conv)
    return is_conv and is_known_act(link.norm) and _is_linear_attention(link.attention)


def _is_linear_attention(attention: Any) -> bool:
    """Whether `attention` is none, or known and its convolutions are matrices."""
    if attention is None or not is_known_attention(attention):
        return attention is None
    convs = (attention.conv_reduce, attention.conv_expand)
    return all(conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1 for conv in convs)


class _Step:
    """A convolution, its activation and the attention behind it, or the shortcut."""

    def __init__(self, link: Link) -> None:
        self._convolve = _Convolution(link.conv, link.norm)
        self._attention: Any = link.attention

    def __call__(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        x = self._convolve(x, shortcut)
        return x if self._attention is None else _attend(self._attention, x)


def _attend(attention: Any, x: Tensor) -> Tensor:
    """Scale `x` in its place; for single pixels a product of matrices begins sooner than a convolution."""
    scale = attention.act1(_multiply(attention.conv_reduce, _means(x)))
    return x.mul_(attention.gate(_multiply(attention.conv_expand, scale))[:, :, None, None])


def _means(x: Tensor) -> Tensor:
    """Return the means of channels (B, C); of bfloat16 torch's mean makes a copy in float32 first, its pooling none."""
    return F.avg_pool2d(x, x.shape[2:]).flatten(1) if x.dtype == torch.bfloat16 else x.mean((2, 3))


def _multiply(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.linear(x, conv.weight.flatten(1), conv.bias)


class _Convolution:
    """A convolution and its activation."""

    def __init__(self, conv: Any, act: nn.Module) -> None:
        self._conv, self._act = conv, act
        self._is_same = type(conv) is StridedSameConv2d
        self._is_linear = type(act) is nn.Identity
        self._is_fused = type(act) in _FUSED_ACTS
        self._name, self._attributes = _FUSED_ACTS[type(act) if self._is_fused else nn.Identity]
        # A weight, its memory, which so long is no other's, its state and the size of images, and it packed.
        self._last: tuple[Any, ...] = (None, None, (), None)

    def __call__(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        rows = cols = 0
        padding = self._conv.padding
        if self._is_same:
            x, padding, rows, cols = _pad_same(self._conv, x)
        # torch 2.8 cannot describe a map of one pixel to oneDNN's sum.
        other = shortcut if self._is_linear and x.shape[2:].numel() > 1 else None
        weight = self._weight_for(x, padding)
        numbers = [getattr(self._act, name) for name in self._attributes]
        y: Tensor = convolve_packed(self._conv, x, weight, padding, self._name, numbers, other)
        if rows + cols > 0:
            y = F.pad(y, [-cols, 0, -rows, 0])
        y = y if self._is_fused else self._act.forward(y)
        return y if shortcut is None or other is not None else y.add_(shortcut)

    def _weight_for(self, x: Tensor, padding: Any) -> Tensor:
        """Return the weight, in oneDNN's order once it comes a second time with images of one size.

        The order that is right for one size would be brought into that of another at each call, slowly.
        """
        conv, weight = self._conv, self._conv.weight
        if weight.is_inference():  # torch does not count its changes
            return weight  # type: ignore[no-any-return]
        state = (weight._version, weight.data_ptr(), weight.dtype, x.shape[2:])
        last, memory, last_state, packed = self._last
        if last is not weight or last_state != state:
            self._last = (weight, weight.detach(), state, None)
            return weight  # type: ignore[no-any-return]
        if packed is None:
            packed = pack_weight(weight, padding, conv.stride, conv.dilation, conv.groups, x.shape)
            self._last = (weight, memory, state, packed)
        return packed  # type: ignore[no-any-return]


def _pad_same(conv: StridedSameConv2d, x: Tensor) -> tuple[Tensor, Any, int, int]:
    """Return `x`, padded where oneDNN cannot, the padding that it does, and what of the output's beginning goes."""
    rows, cols = conv.surplus(x)
    if not conv.halves or (rows + cols > 0 and conv.grows):
        return conv.padded(x), (0, 0), 0, 0
    return x, (conv.margin[0] + rows, conv.margin[1] + cols), rows, cols
