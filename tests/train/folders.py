"""Folders of images whose classes are known by their colour."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def write_images(root: Path, names: Iterable[str], count: int = 1, size: int = 8) -> Path:
    """Write `count` images for each class into root/NAME/; "" stands for the root itself."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            color = (83 * number % 256, 151 * number % 256, 37 * number % 256)
            Image.new("RGB", (size, size), color).save(root / name / f"{index}.png")
    return root
