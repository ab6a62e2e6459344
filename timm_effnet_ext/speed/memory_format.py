"""Which memory format an eager model computes in."""

import torch
from torch import Tensor


def in_fast_format(image: Tensor, training: bool) -> Tensor:
    """Return `image` (B, C, H, W) in channels_last where training in it is faster: in float32 on a CPU with oneDNN.

    Convolutions and what follows them keep the format of their input, so this decides it for the whole network.
    Inference keeps the format it is given, and with it timm's rounding (`optimize_for_inference` does not); compilers
    and exporters choose for themselves.
    """
    if not training or not isinstance(image, Tensor) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return image
    if torch._C._are_functorch_transforms_active():  # vmap has no other format than its own
        return image
    is_plain_cpu = image.device.type == "cpu" and image.dtype == torch.float32 and image.ndim == 4
    if is_plain_cpu and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu"):
        return image.contiguous(memory_format=torch.channels_last)
    return image
