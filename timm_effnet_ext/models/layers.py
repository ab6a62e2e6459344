"""The layers that blocks are made of: what timm and torch do not have, or do slower.

The functions come first by which layers tell how they are called: eagerly, or to be recorded.
"""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

from typing import Any

import timm.layers
import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import create_act_layer, is_exporting, pad_same
from timm.models import register_notrace_module
from torch import Tensor, nn

from timm_effnet_ext.hosts import is_transformed


def is_recorded(x: Tensor) -> bool:
    """Whether what is computed of `x` is written down for tensors of other sizes, as tracers and exporters do.

    A record keeps one side of every branch, so its code may not branch on a size. Tracers give sizes that are no plain
    numbers; where torch.export has Python's bytecode read, they look like numbers.
    """
    return is_exporting() or not isinstance(x.numel(), int)


def is_eager(image: Any) -> bool:
    """Whether `image` is computed as the code says: by no compiler, tracer or transform of torch.func."""
    if not isinstance(image, Tensor) or is_recorded(image) or torch.compiler.is_compiling():
        return False
    return not is_transformed()


def in_fast_format(image: Tensor, training: bool) -> Tensor:
    """Return `image` (B, C, H, W) in channels_last where training in it is faster: in float32 on a CPU with oneDNN.

    Convolutions and what follows them keep the format of their input, so this decides it for the whole network.
    Inference keeps the format it is given, and with it timm's rounding (`optimize_for_inference` does not); compilers
    and exporters choose for themselves, and vmap has no format but its own.
    """
    if not training or not is_eager(image):
        return image
    is_plain_cpu = image.device.type == "cpu" and image.dtype == torch.float32 and image.ndim == 4
    if is_plain_cpu and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu"):
        return image.contiguous(memory_format=torch.channels_last)
    return image


@register_notrace_module
class SiLU(nn.SiLU):
    """SiLU that overwrites its input only where there is no backward, for which autograd would first copy the input.

    Shapes: any, unchanged.
    """

    def forward(self, input: Tensor) -> Tensor:
        is_free = not is_recorded(input) and not torch.is_grad_enabled()
        return F.silu(input, inplace=self.inplace and is_free)


def pad_to_halve(x: Tensor, margin: tuple[int, int]) -> Tensor:
    """Return `x` (B, C, H, W) with TensorFlow's SAME padding for a stride of 2 and a kernel of 2 * margin + 1 > 1.

    One graph for odd and even sizes: `size % 2` more padding before. Written with the output size, so that the exporter
    sees the output as (size + 1) // 2 and can bound the sizes of all later layers.
    """
    (h, w), (ph, pw) = x.shape[-2:], margin
    return F.pad(x, [(w + 1) // 2 * 2 - w + pw - 1, pw, (h + 1) // 2 * 2 - h + ph - 1, ph])


@register_notrace_module
class StridedSameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding that copies as little as can be where it halves the size.

    For an odd size SAME is the symmetric padding `p = (k - 1) / 2`. For an even size it is `(p - 1, p)`: the
    windows of a symmetric padding `p + 1` without the first one, so the convolution can pad by itself and the first
    row or column of the output is dropped. That output is four times smaller where the convolution is depthwise;
    where it has so many more channels that it is not smaller, the input is padded instead. So it is for strides other
    than 2, even kernels and dilation, which the models do not have.

    Its arguments are those of `nn.Conv2d`, so that tools can build another of its kind. `padding` says "same", which
    torch takes for no strided convolution: a tool that builds a plain one from it fails, and does not compute something
    else.

    Shapes: (B, C, H, W) -> (B, O, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: `padding` is not "same", or it is not made of zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding != "same" or padding_mode != "zeros":
            raise ValueError(
                "a SAME convolution has padding='same' and padding_mode='zeros', "
                f"got padding={padding!r} and padding_mode={padding_mode!r}"
            )
        super().__init__(
            in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias, device=device, dtype=dtype
        )
        self.padding = padding
        self.margin = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        is_odd = self.kernel_size[0] % 2 == self.kernel_size[1] % 2 == 1
        is_wide = min(self.kernel_size) > 1  # SAME takes nothing away where a kernel of 1 has no use for a last pixel
        self.halves = is_odd and is_wide and self.stride == (2, 2) and self.dilation == (1, 1)
        self.grows = out_channels >= 4 * in_channels

    def forward(self, input: Tensor) -> Tensor:
        if self.halves and not is_recorded(input):
            rows, cols = self.surplus(input)
            if rows + cols == 0 or not self.grows:
                padding = [self.margin[0] + rows, self.margin[1] + cols]
                x = F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
                return F.pad(x, [-cols, 0, -rows, 0]) if rows + cols > 0 else x
        x = self.padded(input)
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)

    def surplus(self, x: Tensor) -> tuple[int, int]:
        """Return how many first rows and columns of the output, 0 or 1, are dropped for the size of `x`."""
        return 1 - x.shape[-2] % 2, 1 - x.shape[-1] % 2

    def padded(self, x: Tensor) -> Tensor:
        """Return `x` with the padding that SAME asks for."""
        if not self.halves:
            return pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return pad_to_halve(x, self.margin)


@torch.fx.wrap
def channel_means(x: Tensor) -> Tensor:
    """Return the means (B, C, 1, 1) of a feature map (B, C, H, W)."""
    if x.dtype == torch.float32 and not is_recorded(x):
        # The same value; but the backward of a mean fills a whole map with its gradient, that of a sum does not.
        return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    return x.mean((2, 3), keepdim=True)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation gate (arXiv:1709.01507): (B, C, H, W) scaled per channel by a value in (0, 1).

    timm's public SqueezeExcite computes the same under other parameter names; ours are those of timm's tf_* files.
    """

    def __init__(self, chs: int, rd_channels: int, act_layer: type[nn.Module], **dd: Any) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(chs, rd_channels, 1, **dd)
        self.act1 = create_act_layer(act_layer, inplace=True)
        self.conv_expand = nn.Conv2d(rd_channels, chs, 1, **dd)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(channel_means(x))

    def scale(self, x_se: Tensor) -> Tensor:
        """Return the factors (B, C, 1, 1) for the channel means (B, C, 1, 1)."""
        return self.gate(self.conv_expand(self.act1(self.conv_reduce(x_se))))


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
