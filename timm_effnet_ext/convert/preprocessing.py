"""How each family's images were prepared, as entries of timm's pretrained_cfg: part of what the weights mean."""

from __future__ import annotations

from typing import Any

from timm_effnet_ext.arch import EDGE, LITE, V1, V2_BASE, V2_L, V2_M, V2_S, V2_XL, Arch

# The entries of timm's pretrained_cfg that say how images are prepared.
KEYS = ("input_size", "test_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")

Channels = tuple[float, ...]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Channels, Channels] = ((0.5,) * 3, (0.5,) * 3)
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

# torchvision/models/efficientnet.py, transforms of the `_Weights`: pixels after the crop, before it, and how resized.
_TORCHVISION = {
    "efficientnet_b0": (224, 256, "bicubic"), "efficientnet_b1": (240, 256, "bicubic"),
    "efficientnet_b2": (288, 288, "bicubic"), "efficientnet_b3": (300, 320, "bicubic"),
    "efficientnet_b4": (380, 384, "bicubic"), "efficientnet_b5": (456, 456, "bicubic"),
    "efficientnet_b6": (528, 528, "bicubic"), "efficientnet_b7": (600, 600, "bicubic"),
    "efficientnetv2_s": (384, 384, "bilinear"), "efficientnetv2_m": (480, 480, "bilinear"),
    "efficientnetv2_l": (480, 480, "bicubic"),
}  # fmt: skip
_TORCHVISION_HALF = frozenset({"efficientnetv2_l"})


def preprocessing(dialect: str, arch: Arch) -> dict[str, Any]:
    """Return how images are prepared for weights of `arch` that come in `dialect`, for all that is known."""
    table = {"torchvision": _torchvision, "wzmiaomiao_v1": _wzmiaomiao_v1, "wzmiaomiao_v2": _wzmiaomiao_v2}
    return google_cfg(arch) | (table[dialect](arch) if dialect in table else {})


def google_cfg(arch: Arch) -> dict[str, Any]:
    """Return how Google's code of `arch` prepares an image, in the terms of timm's transforms.

    Interpolation is bicubic throughout, as timm has it for these weights.
    """
    mean, std = NORMALISATION[arch.stages]
    size, eval_size = ((3, n, n) for n in (arch.train_size, arch.eval_size))
    is_squashed = arch.stages in _SQUASHED
    return {
        "input_size": size,
        **({"test_input_size": eval_size} if eval_size != size else {}),
        "interpolation": "bicubic",
        "crop_pct": 1.0 if is_squashed else round(arch.eval_size / (arch.eval_size + CROP_PADDING), 3),
        "crop_mode": "squash" if is_squashed else "center",
        "mean": mean,
        "std": std,
    }


def _torchvision(arch: Arch) -> dict[str, Any]:
    if arch.name not in _TORCHVISION:
        return {}
    crop, resize, interpolation = _TORCHVISION[arch.name]
    mean, std = HALF if arch.name in _TORCHVISION_HALF else IMAGENET
    size = (3, crop, crop)
    cfg = {"input_size": size, "test_input_size": size, "crop_pct": round(crop / resize, 3), "crop_mode": "center"}
    return {**cfg, "interpolation": interpolation, "mean": mean, "std": std}


def _wzmiaomiao_v1(arch: Arch) -> dict[str, Any]:
    """Test9_efficientNet/train.py, "val": resized to the size of the crop, bilinearly."""
    mean, std = IMAGENET
    return {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear", "mean": mean, "std": std}


def _wzmiaomiao_v2(arch: Arch) -> dict[str, Any]:
    """Test11_efficientnetV2/train.py, "val"."""
    mean, std = HALF
    return {**_wzmiaomiao_v1(arch), "mean": mean, "std": std}
