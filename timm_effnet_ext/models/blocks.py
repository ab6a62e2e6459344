"""The block kinds of the EfficientNet papers, made of the layers that a model is given."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.fx
from timm.layers import BatchNormAct2d, DropPath, create_conv2d, get_act_layer, get_attn, get_norm_act_layer
from torch import Tensor, nn

from timm_effnet_ext.arch.rows import Block
from timm_effnet_ext.models.layers import CondConv2d, Routing, SiLU, SqueezeExcite, StridedSameConv2d, channel_means

torch.fx.wrap("channel_means")  # which fx must be told wherever the function is called


@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of one model, with what `Trunk` was given for them; layers are names, classes or partials."""

    act_layer: Any
    norm_layer: Any  # None is BatchNorm with `bn_eps` and `bn_momentum`
    se_layer: Any  # None keeps squeeze-and-excitation
    pad_type: Any  # as in timm's `create_conv2d`, or "same"
    bn_eps: float
    bn_momentum: float
    dd: dict[str, Any]  # device and dtype of the parameters

    def conv(
        self, in_chs: int, out_chs: int, kernel_size: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> nn.Module:
        """Return a convolution without bias: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))."""
        make = StridedSameConv2d if self.pad_type == "same" and stride > 1 else create_conv2d
        return make(
            in_chs, out_chs, kernel_size,
            stride=stride, padding=self.pad_type, dilation=dilation, groups=groups, bias=False, **self.dd,
        )  # fmt: skip

    def cond_conv(self, in_chs: int, out_chs: int, kernel_size: int = 1, **kwargs: Any) -> CondConv2d:
        """Return a convolution without bias that mixes `num_experts` kernels for each image."""
        return CondConv2d(in_chs, out_chs, kernel_size, padding=self.pad_type, **kwargs, **self.dd)

    def norm_act(self, chs: int, *, apply_act: bool = True) -> nn.Module:
        """Return the norm followed by the activation, or by nothing."""
        layer = get_norm_act_layer(self.norm_layer or nn.BatchNorm2d, self._act)
        base, given = (layer.func, layer.keywords) if isinstance(layer, partial) else (layer, {})
        if base is BatchNormAct2d:
            layer = partial(base, **{"eps": self.bn_eps, "momentum": self.bn_momentum, **given})
        return layer(chs, apply_act=apply_act, inplace=apply_act, **self.dd)

    def se(self, chs: int, rd_channels: int) -> nn.Module:
        """Return the channel attention of a block; identity where `rd_channels` is 0."""
        if not rd_channels:
            return nn.Identity()
        if self.se_layer is None:
            return SqueezeExcite(chs, rd_channels, self._act, **self.dd)
        layer: Callable[..., nn.Module] = get_attn(self.se_layer)
        wanted = {"rd_channels": rd_channels, "act_layer": self._act, **self.dd}
        accepted = inspect.signature(layer).parameters
        any_name = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        return layer(chs, **{k: v for k, v in wanted.items() if any_name or k in accepted})

    @property
    def _act(self) -> type[nn.Module]:
        layer = get_act_layer(self.act_layer)
        return SiLU if layer is nn.SiLU else layer


def _drop_path(rate: float) -> nn.Module:
    return DropPath(rate) if rate else nn.Identity()


class MBConv(nn.Module):
    """Expand 1x1, depthwise k x k, squeeze-and-excitation, project 1x1 (arXiv:1801.04381, arXiv:1905.11946)."""

    def __init__(self, b: Block, make: LayerFactory, *, stride: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        self.has_skip = b.shortcut
        self.conv_pw = make.conv(b.in_chs, b.mid_chs)
        self.bn1 = make.norm_act(b.mid_chs)
        self.conv_dw = make.conv(b.mid_chs, b.mid_chs, b.kernel, stride=stride, dilation=dilation, groups=b.mid_chs)
        self.bn2 = make.norm_act(b.mid_chs)
        self.se = make.se(b.mid_chs, b.se_chs)
        self.conv_pwl = make.conv(b.mid_chs, b.out_chs)
        self.bn3 = make.norm_act(b.out_chs, apply_act=False)
        self.drop_path = _drop_path(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.bn1(self.conv_pw(x))
        x = self.bn2(self.conv_dw(x))
        x = self.se(x)
        x = self.bn3(self.conv_pwl(x))
        return self.drop_path(x) + shortcut if self.has_skip else x


class DepthwiseSeparableConv(nn.Module):
    """MBConv with expansion 1: depthwise k x k, squeeze-and-excitation, project 1x1."""

    def __init__(self, b: Block, make: LayerFactory, *, stride: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        self.has_skip = b.shortcut
        self.conv_dw = make.conv(b.in_chs, b.in_chs, b.kernel, stride=stride, dilation=dilation, groups=b.in_chs)
        self.bn1 = make.norm_act(b.in_chs)
        self.se = make.se(b.in_chs, b.se_chs)
        self.conv_pw = make.conv(b.in_chs, b.out_chs)
        self.bn2 = make.norm_act(b.out_chs, apply_act=False)
        self.drop_path = _drop_path(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.bn1(self.conv_dw(x))
        x = self.se(x)
        x = self.bn2(self.conv_pw(x))
        return self.drop_path(x) + shortcut if self.has_skip else x


class CondMBConv(nn.Module):
    """MBConv whose three convolutions are CondConvs, routed by what comes into the block (arXiv:1904.04971)."""

    def __init__(self, b: Block, make: LayerFactory, *, stride: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        self.has_skip = b.shortcut
        cond_conv = partial(make.cond_conv, num_experts=b.experts)
        self.conv_pw = cond_conv(b.in_chs, b.mid_chs)
        self.bn1 = make.norm_act(b.mid_chs)
        self.conv_dw = cond_conv(b.mid_chs, b.mid_chs, b.kernel, stride=stride, dilation=dilation, groups=b.mid_chs)
        self.bn2 = make.norm_act(b.mid_chs)
        self.se = make.se(b.mid_chs, b.se_chs)
        self.conv_pwl = cond_conv(b.mid_chs, b.out_chs)
        self.bn3 = make.norm_act(b.out_chs, apply_act=False)
        self.drop_path = _drop_path(drop_path)
        self.routing_fn = Routing(b.in_chs, b.experts, **make.dd)

    def route(self, x: Tensor) -> Tensor:
        """Return how much of each expert the images of the block's input (B, C, H, W) get: (B, experts)."""
        return torch.sigmoid(self.routing_fn(channel_means(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        routing = self.route(x)
        x = self.bn1(self.conv_pw(x, routing))
        x = self.bn2(self.conv_dw(x, routing))
        x = self.se(x)
        x = self.bn3(self.conv_pwl(x, routing))
        return self.drop_path(x) + shortcut if self.has_skip else x


class FusedMBConv(nn.Module):
    """Expand k x k, squeeze-and-excitation, project 1x1 (arXiv:2104.00298 Figure 2)."""

    def __init__(self, b: Block, make: LayerFactory, *, stride: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        self.has_skip = b.shortcut
        self.conv_exp = make.conv(b.in_chs, b.mid_chs, b.kernel, stride=stride, dilation=dilation)
        self.bn1 = make.norm_act(b.mid_chs)
        self.se = make.se(b.mid_chs, b.se_chs)
        self.conv_pwl = make.conv(b.mid_chs, b.out_chs)
        self.bn2 = make.norm_act(b.out_chs, apply_act=False)
        self.drop_path = _drop_path(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.bn1(self.conv_exp(x))
        x = self.se(x)
        x = self.bn2(self.conv_pwl(x))
        return self.drop_path(x) + shortcut if self.has_skip else x


class FusedConv(nn.Module):
    """Fused-MBConv with expansion 1: a plain k x k convolution, norm and activation."""

    def __init__(self, b: Block, make: LayerFactory, *, stride: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        self.has_skip = b.shortcut
        self.conv = make.conv(b.in_chs, b.out_chs, b.kernel, stride=stride, dilation=dilation)
        self.bn1 = make.norm_act(b.out_chs)
        self.drop_path = _drop_path(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.bn1(self.conv(x))
        return self.drop_path(x) + shortcut if self.has_skip else x


BLOCKS: dict[tuple[str, bool], type[nn.Module]] = {
    ("mb", True): MBConv,
    ("mb", False): DepthwiseSeparableConv,
    ("fused", True): FusedMBConv,
    ("fused", False): FusedConv,
    ("cond", True): CondMBConv,
}
"""Block class by `Block.kind`: (operator, has an expansion convolution)."""


def init_weights(model: nn.Module) -> None:
    """Draw the weights as Google's code does.

    Convolutions are normal with variance 2 / fan_out, the classifier uniform within 1 / sqrt(classes), biases 0.
    Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py `conv_kernel_initializer`,
    `dense_kernel_initializer`.
    """
    for module in model.modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear, CondConv2d)) or module.weight.is_meta:
            continue  # nothing to draw, and torch is slow at it
        if isinstance(module, (CondConv2d, Routing)):
            module.reset_parameters()
            continue
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
        else:
            limit = module.out_features**-0.5
            nn.init.uniform_(module.weight, -limit, limit)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
