"""Counts the FLOPs of training on an image, forward and backward, by its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from timm_effnet_ext.errors import EffNetExtError

_BATCH = 2  # BatchNorm takes no statistics of one value


def count_flops(args: Mapping[str, Any], sizes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the FLOPs of an image of each (height, width), for the model that `args` of train.py describe.

    A multiplication and its addition are two. What is frozen has no backward pass; what memory saving computes twice
    counts once. Nothing is computed: the tensors have shapes, and no values.

    Raises:
        EffNetExtError: timm makes no such model, or it does not take images of a size.
    """
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    names = {name: args[name] for name in ("num_classes", "in_chans") if args.get(name) is not None}
    rules = {torch.ops.aten.convolution_backward: _count_backward}
    counts: dict[tuple[int, int], int] = {}
    try:
        with torch.device("meta"):
            kwargs: dict[str, Any] = {**(args.get("model_kwargs") or {}), **names}
            model = timm.create_model(args["model"], pretrained=False, **kwargs).train()
            for height, width in sizes:
                images = torch.zeros(_BATCH, names.get("in_chans", 3), height, width)
                with FlopCounterMode(display=False, custom_mapping=rules) as counter:
                    model(images).sum().backward()
                counts[height, width] = counter.get_total_flops() // _BATCH
    except Exception as err:  # whatever a model of timm's raises
        reason = " ".join(str(err).split()) or type(err).__name__
        raise EffNetExtError(f"FLOPs of {args.get('model')} cannot be counted: {reason}") from err
    return counts


def _count_backward(grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **other: Any) -> int:
    """Return the FLOPs of a convolution's backward pass: those of its forward, for each gradient that is asked for.

    torch's own rule takes the weights' gradient of a grouped convolution for that of a dense one (2.14.1).
    """
    *_, transposed, _, _, asked = rest
    images, _, *places = x if transposed else grad
    return sum(asked[:2]) * 2 * prod(weight) * images * prod(places)
