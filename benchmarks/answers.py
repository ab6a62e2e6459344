"""Counts the answers that stay the same in bfloat16 and in 8-bit integers, on photographs: `make bench-answers`.

The photographs are those of buildings, animals, tools and dishes in Debian's gcompris-qt-data. Its copyright file says
of each whether it is in the public domain, CC BY or CC BY-SA. The weights are real: Lite0's, which `make demo` makes.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from timm_effnet_ext.export.int8 import Answers, compare
from timm_effnet_ext.export.write import ExportOptions, export
from timm_effnet_ext.models.fold import optimize_for_inference
from timm_effnet_ext.predict.classifier import load_classifier
from timm_effnet_ext.predict.photos import photo_files, read_photo

SOURCE = Path("/usr/share/gcompris-qt/rcc")
_ACTIVITIES = (
    "categorization",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
_MIN_SIDE = 200  # pixels; what is smaller, or has transparent parts, is a symbol


def unpack(source: Path, target: Path) -> Path:
    """Write the photographs of GCompris as target/ACTIVITY-N.webp, and return `target`."""
    if not source.is_dir():
        raise SystemExit(f"{source}: not there. Install the Debian package gcompris-qt-data")
    target.mkdir(parents=True, exist_ok=True)
    for activity in _ACTIVITIES:
        for index, picture in enumerate(_pictures((source / f"{activity}.rcc").read_bytes())):
            (target / f"{activity}-{index}.webp").write_bytes(picture)
    return target


def _pictures(resources: bytes) -> Iterator[bytes]:
    """Yield the WebP files in a file of Qt's resources that are photographs.

    They lie there as they are: "RIFF", the number of bytes that follow it, "WEBP" (RFC 9649).
    """
    start = resources.find(b"RIFF")
    while start >= 0:
        end = start + 8 + int.from_bytes(resources[start + 4 : start + 8], "little")
        if (
            resources[start + 8 : start + 12] == b"WEBP"
            and end <= len(resources)
            and _is_photograph(resources[start:end])
        ):
            yield resources[start:end]
        start = resources.find(b"RIFF", start + 4)


def _is_photograph(picture: bytes) -> bool:
    with Image.open(io.BytesIO(picture)) as image:
        return min(image.size) >= _MIN_SIDE and (image.mode != "RGBA" or image.getextrema()[3] == (255, 255))


def in_bfloat16(folder: str, images: Path) -> Answers:
    """Return how many answers on all photographs stay the same in bfloat16."""
    classifier = load_classifier(folder)
    fast = optimize_for_inference(classifier.model, dtype=torch.bfloat16)
    photos = torch.cat([classifier.image(read_photo(path)) for path in photo_files(images)])
    with torch.inference_mode():
        expected, found = (
            torch.cat([model(batch.to(dtype)).float().softmax(-1) for batch in photos.split(16)])
            for model, dtype in ((classifier.model, torch.float32), (fast, torch.bfloat16))
        )
    return compare(expected, found, "softmax")


def main(argv: Sequence[str] | None = None) -> int:
    """Unpack, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a converted model, with real weights")
    parser.add_argument("--source", type=Path, default=SOURCE, help=f"GCompris's resources (default: {SOURCE})")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        images = unpack(args.source, Path(folder) / "images")
        print("bfloat16:", in_bfloat16(args.model, images))
        options = ExportOptions(int8=True, images=images)
        exported = export(load_classifier(args.model), Path(folder) / "int8.onnx", options)
        print(f"int8, the first {exported.float_layers} convolutions in float32: {exported.answers}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
