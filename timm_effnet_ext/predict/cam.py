"""Shows where in a photo a model saw a class: Grad-CAM, laid over the part of the photo that the model was given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.predict.classifier import Classifier

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the photo

COLOURS = ((48, 18, 59), (70, 107, 227), (27, 207, 212), (164, 252, 60), (251, 185, 56), (228, 75, 22), (122, 4, 3))
"""Cold to hot: seven stops of Google's Turbo map, evenly spaced."""

OPACITY = 0.65  # the hottest spot has it; the coldest is clear
UNSEEN = 0.45  # what the model was not given is darkened to this brightness


def explain(classifier: Classifier, photo: Image.Image, index: int) -> Image.Image:
    """Return the photo with the places coloured that speak for a class, from blue to red: Grad-CAM.

    The picture has the photo's size. What the model was not given, beyond its crop, is darkened.

    Args:
        classifier: Any but an exported file, which keeps its features to itself.
        photo: RGB.
        index: The class, as `Prediction.index` has it.

    Raises:
        EffNetExtError: The model has no feature maps to look at, or puts a border around photos.

    Source: arXiv:1610.02391, equations 1 and 2.
    """
    box = view_box(photo.size, classifier.data_config)
    return overlay(photo, grad_cam(classifier.model, classifier.image(photo), *classifier.output_of(index)), box)


def grad_cam(model: Any, image: Tensor, index: int, sign: int = 1) -> np.ndarray:
    """Return the evidence for an output at each cell of the last features: (h, w) from 0 to 1.

    Args:
        model: timm model with convolutional features, in eval mode.
        image: What the model sees, (1, C, H, W).
        index: The output.
        sign: 1 for what raises it, -1 for what lowers it.

    Raises:
        EffNetExtError: The features are no map, as those of a transformer, or stay inside an exported file.
    """
    if not hasattr(model, "forward_features"):
        raise EffNetExtError("a CAM needs the features, which an exported file keeps to itself: name the model instead")
    with torch.no_grad():
        features = model.forward_features(image)
    if features.ndim != 4:
        raise EffNetExtError(f"a CAM needs features (B, C, H, W), this model has {tuple(features.shape)}")
    with torch.enable_grad():
        features.requires_grad_()
        score = sign * model.forward_head(features)[0, index]
        (gradient,) = torch.autograd.grad(score, features)
    importance = gradient.mean((2, 3), keepdim=True)
    evidence = (importance * features.detach()).sum(1)[0].relu()
    return (evidence / evidence.max().clamp_min(torch.finfo(evidence.dtype).tiny)).numpy()


def overlay(photo: Image.Image, evidence: np.ndarray, box: Box) -> Image.Image:
    """Return the photo with the evidence as colours within `box`, and darkened around it."""
    size = (box[2] - box[0], box[3] - box[1])
    heat = Image.fromarray((evidence * 255 + 0.5).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(_palette()[np.asarray(heat)])
    picture = photo.point(lambda value: value * UNSEEN)
    picture.paste(photo.crop(box), box)
    picture.paste(colours, box, heat.point(lambda value: value * OPACITY))
    return picture


def view_box(size: tuple[int, int], data_config: Mapping[str, Any]) -> Box:
    """Return the part of a photo of `size` (width, height) that timm's evaluation transform gives to the model.

    Raises:
        EffNetExtError: The crop mode puts a border around the photo.
    """
    _, *target = data_config["input_size"]
    mode, pct = data_config["crop_mode"], data_config["crop_pct"]
    if mode not in ("center", "squash"):
        raise EffNetExtError(f"a CAM cannot be laid over photos of crop mode {mode!r}, only 'center' and 'squash'")
    scales = [side / math.floor(wanted / pct) for side, wanted in zip(size, reversed(target), strict=True)]
    if mode == "center":  # both sides by the same factor, so that the shorter relative one fits
        scales = [min(scales)] * 2
    lengths = [min(side, wanted * scale) for side, wanted, scale in zip(size, reversed(target), scales, strict=True)]
    left, top = ((side - length) / 2 for side, length in zip(size, lengths, strict=True))
    return round(left), round(top), round(left + lengths[0]), round(top + lengths[1])


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all; the suffix says the format."""
    with new_file(path) as part:
        picture.save(part, format=Image.registered_extensions()[path.suffix.lower()])


def _palette() -> np.ndarray:
    """Return the colours from cold to hot, (256, 3)."""
    stops = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.arange(256), stops, channel) for channel in zip(*COLOURS, strict=True)]
    return np.stack(channels, 1).round().astype(np.uint8)
