"""The layers that blocks are made of: what timm and torch do not have, or do slower."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import FrozenBatchNormAct2d, create_act_layer, is_exporting, pad_same
from timm.models import register_notrace_module
from torch import Tensor, nn


def is_recorded(x: Tensor) -> bool:
    """Whether what is computed of `x` is written down for tensors of other sizes, as tracers and exporters do.

    A record keeps one side of every branch, so its code may not branch on a size. Tracers give sizes that are no plain
    numbers; where torch.export has Python's bytecode read, they look like numbers.
    """
    return is_exporting() or not isinstance(x.numel(), int)


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


@register_notrace_module
class FrozenBatchNorm(FrozenBatchNormAct2d):
    """BatchNorm whose statistics, weight and bias are constants: what looks for BatchNorms or parameters passes it by.

    It is timm's, and thawed by timm's `unfreeze_batch_norm_2d`, but one operation instead of two, whose result has the
    dtype of its input under autocast too.

    Shapes: (B, C, H, W), unchanged.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    @classmethod
    def of(cls, norm: Any) -> "FrozenBatchNorm":
        """Return the frozen twin of a BatchNorm, with its activation if it has one."""
        mean = norm.running_mean
        frozen = cls(norm.num_features, norm.eps, apply_act=False, device=mean.device, dtype=mean.dtype)
        frozen.load_state_dict(norm.state_dict(), strict=False)  # a norm without weight and bias has 1 and 0
        frozen.num_features, frozen.affine = norm.num_features, norm.affine  # which timm's function looks at
        frozen.drop, frozen.act = getattr(norm, "drop", frozen.drop), getattr(norm, "act", frozen.act)
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.act(self.drop(x))


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
