"""How other PyTorch implementations prepare the images of the weights that they publish."""

from __future__ import annotations

from timm_effnet_ext.arch.rows import Arch
from timm_effnet_ext.convert.dialects.preparation import HALF, IMAGENET, Prepared, by_google, crop_share

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


def by_torchvision(arch: Arch) -> Prepared:
    """Return how torchvision prepares images, for the architectures of which it publishes weights."""
    if arch.name not in _TORCHVISION:
        return by_google(arch)
    crop, resize, interpolation = _TORCHVISION[arch.name]
    mean, std = HALF if arch.name in _TORCHVISION_HALF else IMAGENET
    size = (3, crop, crop)
    cfg = {"input_size": size, "test_input_size": size, "crop_pct": crop_share(crop, resize), "crop_mode": "center"}
    return Prepared(
        f"torchvision's weights of {arch.name}", {**cfg, "interpolation": interpolation, "mean": mean, "std": std}
    )


def by_wzmiaomiao_v1(arch: Arch) -> Prepared:
    """Return how Test9_efficientNet/train.py does, "val": resized to the size of the crop, bilinearly."""
    mean, std = IMAGENET
    cfg = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear", "mean": mean, "std": std}
    return Prepared("WZMIAOMIAO's train.py", {**by_google(arch).cfg, **cfg})


def by_wzmiaomiao_v2(arch: Arch) -> Prepared:
    """Return how Test11_efficientnetV2/train.py does, "val"."""
    mean, std = HALF
    whose, cfg = by_wzmiaomiao_v1(arch)
    return Prepared(whose, {**cfg, "mean": mean, "std": std})


def by_mmpretrain_v2(arch: Arch) -> Prepared:
    """Return how mmpretrain's configs/efficientnet_v2 do for testing: the whole shorter side, mean and std of 127.5."""
    whose, cfg = f"mmpretrain's config of {arch.name}", by_google(arch).cfg
    mean, std = IMAGENET if cfg["mean"] == IMAGENET[0] else HALF
    return Prepared(whose, {**cfg, "crop_pct": 1.0, "crop_mode": "center", "mean": mean, "std": std})
