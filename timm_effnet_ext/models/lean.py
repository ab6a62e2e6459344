"""Lean training: keeps convolution outputs and norm statistics for backward, and recomputes what lies between.

Eager autograd keeps three tensors per convolution: its output (for BatchNorm), the normalised value (for the
activation) and the activated one (for the next convolution). The last two are cheap functions of the first, so a
network is walked here as a chain of links, each from one convolution's output to the next one's:

    conv output -> BatchNorm -> activation -> attention -> drop path -> + shortcut -> conv

A link keeps its first value and the batch statistics; backward recomputes the rest up to the convolution's input.
The convolution itself runs once, the statistics are taken and tracked once, and nothing random is drawn again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from timm_effnet_ext.hosts import is_batched_gradient, is_intercepted, may_hook_saved_tensors
from timm_effnet_ext.models.blocks import CondMBConv
from timm_effnet_ext.models.chains import (
    block_links,
    has_chain,
    is_known_act,
    is_known_attention,
    is_known_conv,
    is_known_drop,
    is_known_norm,
    is_row,
    takes_statistics,
)
from timm_effnet_ext.models.layers import SqueezeExcite, in_fast_format, is_eager
from timm_effnet_ext.models.lean_convolution import autocast_like_now, conv_gradients, convolve, convolve_leanly


def lean_applies(trunk: Any, image: Any) -> bool:
    """Whether `image` is computed eagerly and for backward; compilers, tracers and `no_grad` have no use for links."""
    if not is_eager(image):
        return False
    elsewhere = trunk.grad_checkpointing or not is_row(trunk.blocks)
    elsewhere |= next(trunk.parameters(), None) is None  # a replica of nn.DataParallel has them elsewhere
    return torch.is_grad_enabled() and not elsewhere and image.numel() > 0 and not image.is_meta


def lean_features(model: Any, image: Tensor) -> Tensor:
    """Return `model.forward_features(image)`."""
    return lean_stages(model, image)[-1].into(model.conv_head, model.bn2).value()


def lean_stages(trunk: Any, image: Tensor) -> list[Activation]:
    """Return the outputs of the stem and of each stage of `trunk`."""
    outputs = [Activation(in_fast_format(image, trunk.training)).into(trunk.conv_stem, trunk.bn1)]
    for stage in trunk.blocks:
        outputs.append(_run(stage, outputs[-1]))
    return outputs


class Activation:
    """A feature map (B, C, H, W) still to be computed: a convolution's output and what follows it."""

    def __init__(self, y: Tensor, norm: nn.Module | None = None, attention: nn.Module | None = None) -> None:
        self._y = y
        self._norm = norm  # None once `_y` is the value
        self._attention = attention
        self._drop_mask: Tensor | None = None
        self._shortcut: Tensor | None = None
        self._is_kept = False  # whether autograd holds the value, so that a sum may be recomputed from it

    def value(self) -> Tensor:
        """Return the feature map."""
        if self._norm is not None:
            self._y = self._link(None)[1] if self._is_known() else self._plain()
            self._norm = None
        return self._y

    def into(
        self, conv: Any, norm: nn.Module, attention: nn.Module | None = None, routing: Tensor | None = None
    ) -> Activation:
        """Return the output of `conv`, by the `routing` of a CondConv, with `norm` and `attention` still to come."""
        is_known = is_known_conv(conv)
        if self._norm is not None and self._is_known() and is_known:
            y, self._y = self._link(conv, routing)
            self._norm = None
        else:
            y = (convolve_leanly if is_known else convolve)(conv, self.value(), routing)
            self._is_kept = True
        return Activation(y, norm, attention)

    def add(self, shortcut: Activation, drop_path: nn.Module) -> None:
        """Let the value pass `drop_path`, then add the value of `shortcut`."""
        if type(drop_path) is not nn.Identity:
            ones = self._y.new_ones(()).expand(self._y.shape[0], 1, *self._y.shape[2:])  # its size may decide the rate
            self._drop_mask = drop_path(ones)[:, :, :1, :1].clone()
        self._shortcut = shortcut.value()
        self._is_kept = not shortcut._is_kept  # every other of several sums is recomputed from the one before

    def _is_known(self) -> bool:
        norm: Any = self._norm
        if type(norm) is FrozenBatchNormAct2d and norm.running_mean.dtype != self._y.dtype:
            return False  # under autocast, timm's turns its input into float32
        return is_known_norm(norm) and is_known_act(norm.act) and is_known_attention(self._attention)

    def _link(self, conv: nn.Module | None, routing: Tensor | None = None) -> tuple[Any, Tensor]:
        norm: Any = self._norm
        link = _Modules(norm, norm.act, self._attention, conv)
        weights = () if self._attention is None else tuple(self._attention.parameters())
        conv_weight = None if conv is None else conv.weight
        return _Link.apply(
            link, self._is_kept, self._y, self._shortcut, self._drop_mask, routing, conv_weight,
            norm.weight, norm.bias, *weights,
        )  # fmt: skip

    def _plain(self) -> Tensor:
        x = self._norm(self._y)  # type: ignore[misc]
        x = x if self._attention is None else self._attention(x)
        x = x if self._drop_mask is None else x * self._drop_mask
        return x if self._shortcut is None else x + self._shortcut


class _Modules(NamedTuple):
    """The modules of one link."""

    norm: Any
    act: nn.Module
    attention: Any
    conv: Any


class _Link(Function):
    """(conv output, shortcut, drop mask, routing, parameters) -> (next conv output or None, its input)."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, link, is_kept, y, shortcut, mask, routing, weight, gamma, beta, *se_params
    ):
        ctx.set_materialize_grads(False)
        ctx.link, ctx.training, ctx.is_kept = link, takes_statistics(link.norm), is_kept
        ctx.autocast = autocast_like_now(y.device.type)
        with ctx.autocast:
            x, mean, invstd = _batch_norm(link.norm, y, gamma, beta)
            x = link.act(x)
            ctx.squeeze = None if link.attention is None else _Squeeze(link.attention, x)
            x = _combine(x, ctx.squeeze, mask, shortcut, overwrite=True)
            out = None if link.conv is None else convolve(link.conv, x, routing)
        source = None if out is None else x if is_kept else shortcut
        ctx.save_for_backward(y, source, mask, routing, weight, mean, invstd, gamma, beta, *se_params)
        return out, x

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out, d_x):  # type: ignore[no-untyped-def]
        # Those of squeeze-and-excitation are here for torch to see whether somebody has overwritten them.
        y, source, mask, routing, weight, mean, invstd, gamma, beta, *_ = ctx.saved_tensors
        _, _, _, needs_shortcut, _, _, needs_weight, needs_gamma, needs_beta, *needs_se = ctx.needs_input_grad
        var = invstd.pow(-2)
        normalized: Any = None
        activated: Any = None
        d_routing, d_weight, d_se = None, None, [None] * len(needs_se)
        act = ctx.link.act
        if not isinstance(act, nn.Identity) or ctx.squeeze or (d_out is not None and not ctx.is_kept):
            normalized = activated = _normalize(y, gamma, beta, mean, var)
        if isinstance(act, nn.SiLU):
            activated = F.silu(normalized)
        elif not isinstance(act, nn.Identity):
            with torch.enable_grad(), ctx.autocast:
                activated = _out_of_place(act).forward(normalized.requires_grad_())
        if d_out is not None:
            is_free = activated is normalized and not ctx.squeeze
            x = source if ctx.is_kept else _combine(activated.detach(), ctx.squeeze, mask, source, overwrite=is_free)
            d_conv, d_routing, d_weight = conv_gradients(ctx.link.conv, d_out, x, routing, weight, needs_weight)
            d_x = d_conv if d_x is None else d_conv.add_(d_x)
            del x, d_conv
        d = d_x if mask is None else d_x * mask
        if ctx.squeeze:
            d, d_se = ctx.squeeze.backward(d, activated.detach(), needs_se)
        if isinstance(act, nn.SiLU):
            del activated
            is_ours = d is not d_x or (d_out is not None and not needs_shortcut)
            if is_ours and not is_batched_gradient(d):
                torch.ops.aten.silu_backward.grad_input(d, normalized, grad_input=d)
            else:
                d = torch.ops.aten.silu_backward(d, normalized)
        elif not isinstance(act, nn.Identity):
            (d,) = torch.autograd.grad(activated, normalized, d)
            del activated
        del normalized
        # GPUs want running statistics, which count in eval mode alone, in gamma's dtype, and the others in float32.
        dtype = mean.dtype if gamma is None else gamma.dtype
        running = (None, None) if ctx.training else (mean.to(dtype), var.to(dtype))
        d_y, d_gamma, d_beta = torch.ops.aten.native_batch_norm_backward(
            d, y, gamma, *running, mean, invstd, ctx.training, 0.0, [True, needs_gamma, needs_beta]
        )
        d_shortcut = d_x if needs_shortcut else None
        return None, None, d_y, d_shortcut, None, d_routing, d_weight, d_gamma, d_beta, *d_se


class _Squeeze:
    """Squeeze-and-excitation of one feature map; its graph holds (B, C, 1, 1) tensors only and is kept as it is.

    The graph is of copies, and no module is called: hooks of parameters and of modules belong to the outer backward.
    Hooks of saved tensors do too: a checkpoint around the model would run it again for each graph that is not its own.
    """

    def __init__(self, attention: SqueezeExcite, x: Tensor) -> None:
        self._size = x.shape[2] * x.shape[3]
        self._params = [p.detach().requires_grad_(p.requires_grad) for p in attention.parameters()]
        self._mean = x.mean((2, 3), keepdim=True).requires_grad_()
        reduce_weight, reduce_bias, expand_weight, expand_bias = self._params
        passing_by = saved_tensors_hooks(Tensor.detach, _as_it_is) if may_hook_saved_tensors() else nullcontext()
        with torch.enable_grad(), passing_by:
            x_se = attention.act1.forward(_convolve(attention.conv_reduce, self._mean, reduce_weight, reduce_bias))
            x_se = _convolve(attention.conv_expand, x_se, expand_weight, expand_bias)
            self._scale = attention.gate.forward(x_se)
        self.scale = self._scale.detach()

    def backward(self, d_out: Tensor, x: Tensor, needs: Sequence[bool]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the gradients of `x` and of the parameters for that of `x * scale`."""
        d_scale = (d_out * x).sum((2, 3), keepdim=True)
        wanted = [self._mean, *(p for p, needed in zip(self._params, needs, strict=True) if needed)]
        d_mean, *d_params = torch.autograd.grad(self._scale, wanted, d_scale, retain_graph=True)
        d_x = torch.addcmul(d_mean / self._size, d_out, self.scale)
        return d_x, [d_params.pop(0) if needed else None for needed in needs]


def _as_it_is(tensor: Tensor) -> Tensor:
    """Return what was saved; it was detached, as an output that hooks keep with its graph would keep itself alive."""
    return tensor


def _convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what `conv` makes of `x` with another weight and bias."""
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _combine(
    x: Tensor, squeeze: _Squeeze | None, mask: Tensor | None, shortcut: Tensor | None, *, overwrite: bool
) -> Tensor:
    """Return what the next convolution sees of the activated `x`, which may be overwritten."""
    scale = None if squeeze is None else squeeze.scale
    for operation, operand in ((torch.mul, scale), (torch.mul, mask), (torch.add, shortcut)):
        if operand is not None:
            x = operation(x, operand, out=x if overwrite and operand.dtype == x.dtype else None)
            overwrite = True
    return x


def _batch_norm(norm: Any, y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `norm` makes of `y`, its activation left out, with the mean and 1 / deviation that it took."""
    stats: Any = (norm.running_mean, norm.running_var)
    if not takes_statistics(norm):
        if y.device.type != "cpu":
            stats = tuple(value.to(torch.promote_types(value.dtype, torch.float32)) for value in stats)
        mean, invstd = stats[0].clone(), torch.rsqrt(stats[1] + norm.eps)
        return _normalize(y, gamma, beta, mean, invstd.pow(-2)), mean, invstd
    if y.numel() == y.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(y.shape)}")
    norm.num_batches_tracked.add_(1)
    return torch.ops.aten.native_batch_norm(y, gamma, beta, *stats, True, norm.momentum, norm.eps)


def _normalize(y: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor) -> Tensor:
    if gamma is not None and beta is not None and gamma.dtype != mean.dtype:  # which a GPU's batch norm refuses
        scale = torch.rsqrt(var) * gamma
        shift = beta - mean * scale
        return torch.addcmul(shift.view(-1, 1, 1), y, scale.view(-1, 1, 1)).to(y.dtype)
    return torch.ops.aten.native_batch_norm(y, gamma, beta, mean, var, False, 0.0, 0.0)[0]


def _run(module: Any, x: Activation) -> Activation:
    """Return the output of a block, or of blocks in a row; others, and those with hooks, are called as they are."""
    if is_row(module):
        for child in module:
            x = _run(child, x)
        return x
    if is_intercepted(module) or not has_chain(module) or not is_known_drop(module.drop_path):
        return Activation(module(x.value()))
    shortcut = x
    routing = module.route(x.value()) if isinstance(module, CondMBConv) else None
    for link in block_links(module):
        x = x.into(link.conv, link.norm, link.attention, routing)
    if module.has_skip:
        x.add(shortcut, module.drop_path)
    return x


def _out_of_place(act: nn.Module) -> nn.Module:
    """Return `act` as a function that leaves its input alone."""
    if not getattr(act, "inplace", False):
        return act
    twin: Any = copy.copy(act)
    twin.inplace = False
    return twin
