"""Folds BatchNorm into the convolutions before it, for inference."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn

from timm_effnet_ext.layers import FrozenBatchNorm
from timm_effnet_ext.speed.chains import Link, is_intercepted, model_links

Model = TypeVar("Model", bound=nn.Module)

_FOLDED = (BatchNormAct2d, FrozenBatchNormAct2d, FrozenBatchNorm)


def optimize_for_inference(model: Model) -> Model:
    """Return a copy of `model` that computes the same with fewer and faster steps; `model` is left as it is.

    The copy is in eval mode and channels_last, has no gradients, and its BatchNorms are part of the convolutions.
    Other norms stay. It can be scripted, compiled and exported like the original, and keeps `features_only`; run it
    under `torch.inference_mode()`.

    Raises:
        TypeError: `model` is not one of ours.
    """
    if not hasattr(model, "conv_stem") or not hasattr(model, "set_lean_training"):
        raise TypeError(f"optimize_for_inference takes a hucorz_* model, got {type(model).__name__}")
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for link in model_links(folded):
        if _is_foldable(link):
            _fold(link)
    return folded.to(memory_format=torch.channels_last)


def _is_foldable(link: Link) -> bool:
    norm = link.norm
    is_watched = is_intercepted(norm) or is_intercepted(link.conv)  # by who wants their own inputs and outputs
    is_plain = type(norm) in _FOLDED and isinstance(norm.drop, nn.Identity) and norm.running_var is not None
    return is_plain and isinstance(link.conv, nn.Conv2d) and not is_watched


@torch.no_grad()
def _fold(link: Link) -> None:
    """Scale the convolution's filters as the norm would scale its outputs, and leave the activation in its place."""
    conv, norm = link.conv, link.norm
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    shift = shift if conv.bias is None else shift + conv.bias * scale
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight), requires_grad=False)
    setattr(link.owner, link.norm_name, norm.act)
