"""Unpacks a part of Fashion-MNIST (Debian package dataset-fashion-mnist) into a folder that timm reads."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_HEADERS = {"images-idx3": 16, "labels-idx1": 8}  # bytes before the values; yann.lecun.com/exdb/mnist


def unpack(target: Path, images: int, tests: int) -> Path:
    """Write the first `images` and `tests` pictures as target/train/CLASS/N.png and target/validation/…, once."""
    for split, prefix, count in (("train", "train", images), ("validation", "t10k", tests)):
        pictures = _read(prefix, "images-idx3").reshape(-1, 28, 28)[:count]
        labels = _read(prefix, "labels-idx1")[:count]
        for label in CLASSES:
            (target / split / label).mkdir(parents=True, exist_ok=True)
        for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            path = target / split / CLASSES[label] / f"{index}.png"
            if not path.exists():
                Image.fromarray(picture).save(path)
    return target


def _read(prefix: str, kind: str) -> np.ndarray:
    if not SOURCE.is_dir():
        raise SystemExit(f"{SOURCE}: not there. Install the Debian package dataset-fashion-mnist")
    with gzip.open(SOURCE / f"{prefix}-{kind}-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=_HEADERS[kind])


def main(argv: Sequence[str] | None = None) -> int:
    """Unpack as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--tests", type=int, default=10_000)
    args = parser.parse_args(argv)
    print(unpack(args.target, args.images, args.tests))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
