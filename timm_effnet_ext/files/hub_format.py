"""A folder in timm's Hub format: what its files are called, its config.json, and timm's words in that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm_effnet_ext.errors import CheckpointFormatError, located

PREPROCESSING = ("input_size", "test_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
"""The entries of a pretrained_cfg that say how images are prepared."""

MAX_SIDE = 1 << 12
"""Pixels; no EfficientNet sees larger images, and a damaged number may ask for any size."""

# What timm's transforms take: timm/data/transforms.py `str_to_interp_mode`, timm/data/transforms_factory.py.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
WEIGHT_FILES = (WEIGHTS_FILE, "pytorch_model.bin")  # timm takes the first that is there
INDEX_SUFFIX = ".index.json"  # transformers', of weights in several files
INDEX_FILES = tuple(name + INDEX_SUFFIX for name in WEIGHT_FILES)


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, such as a config.json.

    Raises:
        CheckpointFormatError: It cannot be read, or is no object.
    """
    with located(path):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as err:
            raise CheckpointFormatError(f"not readable as JSON ({err})") from err
        if not isinstance(found, dict):
            raise CheckpointFormatError(f"expected a JSON object, found {type(found).__name__}")
    return found
