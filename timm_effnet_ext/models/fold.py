"""Folds BatchNorm into the convolutions before it, for inference."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, FrozenBatchNormAct2d
from torch import nn

from timm_effnet_ext.hosts import has_bfloat16, has_own_forward, is_intercepted
from timm_effnet_ext.models.chains import Link, model_links
from timm_effnet_ext.models.freeze import FrozenBatchNorm
from timm_effnet_ext.models.layers import CondConv2d, StridedSameConv2d
from timm_effnet_ext.models.packed import Packing

_logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

# Exactly these: a class derived from one of them may compute something else from the same weight.
_CONVS = (nn.Conv2d, Conv2dSame, StridedSameConv2d, CondConv2d)
_NORMS = (BatchNormAct2d, FrozenBatchNormAct2d, FrozenBatchNorm)


@torch.inference_mode(False)  # where torch counts changes of weights, which packing follows
def optimize_for_inference(model: Model, dtype: torch.dtype | None = None) -> Model:
    """Return a copy of `model` that computes the same with fewer and faster steps; `model` is left as it is.

    The copy is in eval mode and channels_last, has no gradients, and its BatchNorms are part of the convolutions.
    Other norms stay, and so do those behind layers of one's own. It can be scripted, compiled and exported like the
    original, and keeps `features_only`. Run it under `torch.inference_mode()`: there a CPU computes each convolution
    with what follows it in one step of oneDNN, for which the weights are kept in a second order. That is fastest from
    the third of several batches on whose images have one size. Weights may change later, but not in place through
    `.data` or NumPy, which torch does not count.

    Args:
        model: A `hucorz_*` model, a classifier or with `features_only`.
        dtype: That of the copy, which takes images of it; None keeps the model's. With `torch.bfloat16` a processor
            that has instructions for it is faster and rounds to 8 bits; a log line tells where there are none.

    Raises:
        TypeError: `model` is not one of ours.

    >>> import timm
    >>> from timm_effnet_ext import optimize_for_inference
    >>> model = timm.create_model("hucorz_efficientnet_lite0", width_mult=0.25, depth_mult=0.25)
    >>> model.conv_stem.bias is None, optimize_for_inference(model).conv_stem.bias.shape
    (True, torch.Size([32]))
    """
    if not hasattr(model, "conv_stem") or not hasattr(model, "set_lean_training"):
        raise TypeError(f"optimize_for_inference takes a hucorz_* model, got {type(model).__name__}")
    folded: Any = copy.deepcopy(model).eval().requires_grad_(False)
    uses = Counter(id(module) for _, module in folded.named_modules(remove_duplicate=False))
    for link in model_links(folded):
        if uses[id(link.conv)] == 1 and _is_foldable(link):  # another place may have another norm, or none
            _fold(link)
    folded.packing = Packing()
    if dtype == torch.bfloat16 and next(folded.parameters()).device.type == "cpu" and not has_bfloat16():
        _logger.warning("this processor has no instructions for bfloat16: float32 is faster, and more exact")
    return folded.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[no-any-return]


def _is_foldable(link: Link) -> bool:
    conv, norm = link.conv, link.norm
    if type(conv) not in _CONVS or type(norm) not in _NORMS or type(norm.drop) is not nn.Identity:
        return False
    is_watched = any(map(is_intercepted, (conv, norm, norm.drop)))  # whoever does so wants their own inputs and outputs
    return norm.running_var is not None and not is_watched and not has_own_forward(link.owner)


@torch.no_grad()
def _fold(link: Link) -> None:
    """Scale the convolution's filters, each expert's, as the norm would its outputs; the activation takes its place."""
    conv, norm = link.conv, link.norm
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    shift = shift if conv.bias is None else shift + conv.bias * scale
    filters = conv.weight.reshape(getattr(conv, "num_experts", 1), conv.out_channels, -1)
    weight = (filters * scale.view(-1, 1)).view(conv.weight.shape)
    conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight), requires_grad=False)
    setattr(link.owner, link.norm_name, norm.act)
