"""How each family's images were prepared, as entries of timm's pretrained_cfg: part of what the weights mean."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from timm_effnet_ext.arch import EDGE, LITE, V1, V2_BASE, V2_L, V2_M, V2_S, V2_XL, Arch

Channels = tuple[float, ...]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MINUS_127 = ((127 / 255,) * 3, (128 / 255,) * 3)
MINUS_128 = ((128 / 255,) * 3, (128 / 255,) * 3)

# mean and std by stage table: tensorflow/tpu efficientnet_builder.py, lite/efficientnet_lite_builder.py,
# edgetpu/efficientnet_edgetpu_builder.py (MEAN_RGB, STDDEV_RGB); google/automl efficientnetv2/infer.py,
# preprocessing.py.
NORMALISATION = {
    V1: IMAGENET, V2_BASE: IMAGENET,
    LITE: MINUS_127, EDGE: MINUS_127,
    V2_S: MINUS_128, V2_M: MINUS_128, V2_L: MINUS_128, V2_XL: MINUS_128,
}  # fmt: skip

CROP_PADDING = 32  # pixels around the central crop: tensorflow/tpu preprocessing.py `CROP_PADDING`
_SQUASHED = (V2_S, V2_M, V2_L, V2_XL)  # above 320 pixels: google/automl efficientnetv2/preprocessing.py


def google_cfg(arch: Arch) -> Mapping[str, Any]:
    """Return how Google's code of `arch` prepares an image, in the terms of timm's transforms.

    Interpolation is bicubic throughout, as timm has it for these weights.
    """
    mean, std = NORMALISATION[arch.stages]
    size, eval_size = ((3, n, n) for n in (arch.train_size, arch.eval_size))
    return MappingProxyType(
        {
            "input_size": size,
            **({"test_input_size": eval_size} if eval_size != size else {}),
            "interpolation": "bicubic",
            **(
                {"crop_pct": 1.0, "crop_mode": "squash"}
                if arch.stages in _SQUASHED
                else {"crop_pct": crop_pct(arch.eval_size), "crop_mode": "center"}
            ),
            "mean": mean,
            "std": std,
        }
    )


def crop_pct(size: int) -> float:
    """Return the share of the image's shorter side that a central crop of `size` pixels keeps."""
    return round(size / (size + CROP_PADDING), 3)
