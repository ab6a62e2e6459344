"""Conditionally parameterized convolution: each image's kernel is mixed from those of experts (arXiv:1904.04971)."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
from timm.layers import pad_same
from timm.models import register_notrace_module
from torch import Tensor, nn

from timm_effnet_ext.models.layers import is_recorded, pad_to_halve


@register_notrace_module
class CondConv2d(timm.layers.CondConv2d):
    """timm's CondConv2d in fewer and faster steps, and in one graph for every batch where it is recorded.

    timm convolves all images at once, as groups of one convolution. Here a 1 x 1 kernel is a product of matrices, a
    batch of them; and a recorded graph, whose number of groups could not follow the batch, mixes what the experts
    compute instead of their kernels, which is the same sum.

    `bias`, one for all images, is what a BatchNorm leaves that was folded into the experts; before, there is none.

    Shapes: (B, C, H, W) and how much of each expert (B, experts) -> (B, O, H / stride, W / stride), rounded up.
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, *, num_experts: int, groups: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(in_chs, out_chs, kernel_size, num_experts=num_experts, groups=groups, **kwargs)
        is_plain = self.stride == (1, 1) and self.padding == (0, 0) and groups == 1
        self.is_product = is_plain and self.kernel_size == (1, 1)
        is_halved = self.stride == (2, 2) and self.dilation == (1, 1)
        self.halves = is_halved and self.dynamic_padding and kernel_size % 2 == 1 < kernel_size

    def reset_parameters(self) -> None:
        """Draw each expert as Google's code draws a convolution: normal with variance 2 / fan_out.

        Source: tensorflow/tpu models/official/efficientnet/condconv/condconv_layers.py `get_condconv_initializer`.
        """
        fan_out = self.kernel_size[0] * self.kernel_size[1] * self.out_channels // self.groups
        nn.init.normal_(self.weight, 0.0, (2.0 / fan_out) ** 0.5)

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        if not self.is_product and (is_recorded(x) or x.shape[0] == 0):
            return self._mix_outputs(x, routing_weights)
        return self.convolve(x, torch.matmul(routing_weights, self.weight))

    def convolve(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Return each image convolved with its own kernel, a row of `kernels` (B, parameters of one expert)."""
        b, _, h, w = x.shape
        if self.is_product:
            kernels, x = kernels.view(b, self.out_channels, self.in_channels), x.flatten(2)
            shift = self.bias
            y = torch.bmm(kernels, x) if shift is None else torch.baddbmm(shift.view(1, -1, 1), kernels, x)
            return y.view(b, self.out_channels, h, w)
        bias = None if self.bias is None else self.bias.repeat(b)
        kernels = kernels.view(b * self.out_channels, -1, self.kernel_size[0], self.kernel_size[1])
        x = self.padded(x).flatten(0, 1).unsqueeze(0)
        y = F.conv2d(x, kernels, bias, self.stride, self.padding, self.dilation, b * self.groups)
        return y.view(b, self.out_channels, y.shape[2], y.shape[3])

    def gradients(
        self, d_out: Tensor, x: Tensor, routing_weights: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of images, routing and weight; the kernels, which are large, are mixed again."""
        given, routing, experts = (value.detach().to(d_out.dtype) for value in (x, routing_weights, weight))
        kernels = torch.matmul(routing, experts)
        if self.is_product:
            d = d_out.reshape(len(x), self.out_channels, -1)
            k = kernels.view(len(x), self.out_channels, self.in_channels)
            d_x = torch.bmm(k.transpose(1, 2), d).view(x.shape)
            d_kernels = torch.bmm(d, given.flatten(2).transpose(1, 2)).view(kernels.shape)
        else:
            with torch.enable_grad():
                out = self.convolve(given.requires_grad_(), kernels.requires_grad_())
            d_x, d_kernels = torch.autograd.grad(out, (given, kernels), d_out)
        return d_x.to(x.dtype), torch.matmul(d_kernels, experts.t()), torch.matmul(routing.t(), d_kernels)

    def padded(self, x: Tensor) -> Tensor:
        """Return `x` with what SAME adds to it beyond the padding of the convolution itself."""
        if self.halves:
            return pad_to_halve(x, (self.kernel_size[0] // 2, self.kernel_size[1] // 2))
        if self.dynamic_padding:
            return pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return x

    def _mix_outputs(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """Return the mix of what each expert's kernel makes of all images."""
        kernels = self.weight.view(self.num_experts, self.out_channels, -1).transpose(0, 1)
        kernels = kernels.reshape(-1, self.in_channels // self.groups, self.kernel_size[0], self.kernel_size[1])
        y = F.conv2d(self.padded(x), kernels, None, self.stride, self.padding, self.dilation, self.groups)
        y = y.unflatten(1, (self.out_channels, self.num_experts))
        y = (y * routing_weights.view(-1, 1, self.num_experts, 1, 1)).sum(2)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


class Routing(nn.Linear):
    """How much of each expert an image gets, before the sigmoid: (B, C) -> (B, experts)."""

    def reset_parameters(self) -> None:
        """Draw the weight as TensorFlow does by itself: uniform within sqrt(6 / (fan_in + fan_out)); biases are 0.

        Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py `_routing_fn`.
        """
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)
