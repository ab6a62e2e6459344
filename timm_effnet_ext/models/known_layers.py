"""Which layers lean training computes itself: those that it knows and nobody intercepts; others are called."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from timm.layers import BatchNormAct2d, DropPath, FrozenBatchNormAct2d
from torch import nn

from timm_effnet_ext.hosts import ACTIVATION_MODULES, is_intercepted
from timm_effnet_ext.models.chains import model_links
from timm_effnet_ext.models.condconv import CondConv2d
from timm_effnet_ext.models.layers import FrozenBatchNorm, SiLU, SqueezeExcite, StridedSameConv2d

_logger = logging.getLogger(__name__)

_FROZEN_NORMS = (FrozenBatchNorm, FrozenBatchNormAct2d)


def warn_unknown(trunk: Any) -> None:
    """Log one line with the kinds of layers of `trunk` that go on keeping their activations, if there are any."""
    unknown = set()
    for link in model_links(trunk):
        checks: list[tuple[Any, Callable[[Any], bool]]]
        checks = [(link.conv, is_known_conv), (link.norm, is_known_norm), (link.attention, is_known_attention)]
        checks += [(link.norm.act, is_known_act)] if hasattr(link.norm, "act") else []
        unknown |= {type(layer).__name__ for layer, is_known in checks if not is_known(layer)}
    if unknown:
        _logger.warning("lean training: %s keep their activations, as without it", ", ".join(sorted(unknown)))


def is_known_conv(conv: Any) -> bool:
    """Whether `conv` is a plain convolution without bias, whose gradients lean training computes."""
    is_known = conv.halves if type(conv) is StridedSameConv2d else type(conv) is CondConv2d or is_plain_conv(conv)
    return is_known and conv.bias is None and not is_intercepted(conv)


def is_plain_conv(conv: Any) -> bool:
    """Whether `conv` is torch's own, with zeros around the image and as many as it says."""
    return type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def is_known_norm(norm: Any) -> bool:
    """Whether `norm` is a BatchNorm with statistics of its own, whose activation is all that follows it."""
    if type(norm) not in (BatchNormAct2d, *_FROZEN_NORMS) or is_intercepted(norm):
        return False
    has_drop = type(norm.drop) is not nn.Identity or is_intercepted(norm.drop)
    is_frozen = type(norm) in _FROZEN_NORMS
    return not has_drop and (is_frozen or (norm.track_running_stats and norm.momentum is not None))


def takes_statistics(norm: nn.Module) -> bool:
    """Whether a known norm takes mean and variance of its input now."""
    return norm.training and type(norm) not in _FROZEN_NORMS


def is_known_drop(drop: nn.Module) -> bool:
    """Whether `drop` leaves all as it is, or scales each image's whole map, by whatever schedule."""
    return (type(drop) is nn.Identity or isinstance(drop, DropPath)) and not is_intercepted(drop)


def is_known_act(act: nn.Module) -> bool:
    """Whether computing `act` twice gives the same value and changes nothing."""
    is_function = type(act) in (nn.Identity, SiLU) or type(act).__module__ in ACTIVATION_MODULES
    return is_function and not isinstance(act, nn.RReLU) and not list(act.parameters()) and not is_intercepted(act)


def is_known_attention(attention: Any) -> bool:
    """Whether `attention` is none, or squeeze-and-excitation as our blocks have it."""
    if attention is None:
        return True
    if type(attention) is not SqueezeExcite or any(map(is_intercepted, attention.modules())):
        return False
    convs = (attention.conv_reduce, attention.conv_expand)
    are_plain = all(is_plain_conv(conv) and conv.bias is not None for conv in convs)
    return are_plain and is_known_act(attention.act1) and type(attention.gate) is nn.Sigmoid
