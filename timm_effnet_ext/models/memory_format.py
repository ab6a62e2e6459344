"""Which memory format an eager model computes in."""

from typing import Any

import torch
from torch import Tensor

from timm_effnet_ext.hosts import is_transformed
from timm_effnet_ext.models.layers import is_recorded


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
