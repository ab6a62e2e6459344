"""How the images of published weights were prepared, as entries of timm's pretrained_cfg: part of what weights mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from timm_effnet_ext.arch.rows import EDGE, LITE, V1, V1_COND, V2_BASE, V2_L, V2_M, V2_S, V2_XL, Arch

Channels = tuple[float, ...]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Channels, Channels] = ((0.5,) * 3, (0.5,) * 3)
MINUS_127 = ((127 / 255,) * 3, (128 / 255,) * 3)
MINUS_128 = ((128 / 255,) * 3, (128 / 255,) * 3)

# mean and std by stage table: tensorflow/tpu efficientnet_builder.py, lite/efficientnet_lite_builder.py,
# edgetpu/efficientnet_edgetpu_builder.py, condconv/efficientnet_condconv_builder.py (MEAN_RGB, STDDEV_RGB);
# google/automl efficientnetv2/infer.py, preprocessing.py.
NORMALISATION = {
    V1: IMAGENET, V2_BASE: IMAGENET,
    LITE: MINUS_127, EDGE: MINUS_127, V1_COND: MINUS_127,
    V2_S: MINUS_128, V2_M: MINUS_128, V2_L: MINUS_128, V2_XL: MINUS_128,
}  # fmt: skip

CROP_PADDING = 32  # pixels around the central crop: tensorflow/tpu preprocessing.py `CROP_PADDING`
_SQUASHED = (V2_S, V2_M, V2_L, V2_XL)  # above 320 pixels: google/automl efficientnetv2/preprocessing.py


class Prepared(NamedTuple):
    """How the images of some published weights are prepared; `whose` names the weights."""

    whose: str
    cfg: Mapping[str, Any]


Preparation = Callable[[Arch], Prepared]
"""The preparation of an architecture's images, by whoever published its weights."""


def by_google(arch: Arch) -> Prepared:
    """Return how Google's code of `arch` prepares an image, in the terms of timm's transforms.

    Interpolation is bicubic throughout, as timm has it for these weights.
    """
    mean, std = NORMALISATION[arch.stages]
    size, eval_size = ((3, n, n) for n in (arch.train_size, arch.eval_size))
    is_squashed = arch.stages in _SQUASHED
    cfg = {
        "input_size": size,
        **({"test_input_size": eval_size} if eval_size != size else {}),
        "interpolation": "bicubic",
        "crop_pct": 1.0 if is_squashed else crop_share(arch.eval_size, arch.eval_size + CROP_PADDING),
        "crop_mode": "squash" if is_squashed else "center",
        "mean": mean,
        "std": std,
    }
    return Prepared(f"Google's weights of {arch.name}", cfg)


def crop_share(crop: int, resize: int) -> float:
    """Return timm's `crop_pct` for a crop of `crop` pixels after resizing to `resize`, which timm rounds down.

    >>> crop_share(240, 256)
    0.9375
    """
    share = crop / resize
    return share if math.floor(crop / share) == resize else math.nextafter(share, 0)
