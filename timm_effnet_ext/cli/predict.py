"""`predict`: the most probable labels of photos, and on request where the model saw the first one."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_effnet_ext.arch.rows import PREFIX
from timm_effnet_ext.cli.arguments import number
from timm_effnet_ext.cli.output import print_json, print_table
from timm_effnet_ext.errors import EffNetExtError, plain

if TYPE_CHECKING:
    from timm_effnet_ext.predict.classifier import Prediction

_positive_int = number("positive_int", int, lambda n: n >= 1, "must be at least 1, got {value}")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the photos, and what to make of them."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"{PREFIX}NAME[.TAG] for pretrained weights, a timm folder, hf-hub:USER/REPO, or FILE.onnx",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="photo of any kind that Pillow reads")
    parser.add_argument("--topk", type=_positive_int, default=5, metavar="K", help="labels for each photo (default: 5)")
    parser.add_argument(
        "--cam",
        type=picture_file,
        metavar="FILE.png",
        help="write the photo with the places that speak for its first label (Grad-CAM), darkened where the model "
        "does not look; of several photos each to FILE-PHOTO.png",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(args: argparse.Namespace) -> None:
    """Print the labels of every photo; what can go wrong with the files is found before the model is loaded."""
    from timm_effnet_ext.predict.photos import read_photo

    for path in args.images:
        read_photo(path)  # read again below, as all at once may not fit into memory
    targets = _cam_files(args.cam, args.images) if args.cam else [None] * len(args.images)

    from timm_effnet_ext.predict.classifier import load_classifier  # imports torch

    classifier = load_classifier(args.model)
    if not args.json:
        print(f"{plain(classifier.meaning)}\n")
    records = []
    for path, target in zip(args.images, targets, strict=True):
        photo = read_photo(path)
        top = classifier.top(photo, args.topk)
        if target:
            from timm_effnet_ext.predict.cam import explain, save_picture

            save_picture(explain(classifier, photo, top[0].index), target)
        if args.json:
            said = {"problem_type": classifier.problem_type, "activation": classifier.activation}
            records.append({**_record(path, top, target), **said})
        else:
            print_top(str(path), top, target)
    if args.json:
        print_json(records)


def print_top(title: str, top: list[Prediction], cam: Path | None = None) -> None:
    """Print the labels of one photo as a table."""
    print(title)
    rows = ((f"{one.probability:.3f}", one.index, one.label or "") for one in top)
    print_table(rows, ("probability", "class", "label"), left=(2,))
    print(f"CAM: {cam}\n" if cam else "")


def _record(path: Path, top: list[Prediction], cam: Path | None) -> dict[str, Any]:
    return {"image": str(path), "top": [asdict(one) for one in top], "cam": str(cam) if cam else None}


def _cam_files(cam: Path, images: list[Path]) -> list[Path]:
    """Return where the picture of each photo goes.

    Raises:
        EffNetExtError: The folder is missing, two photos would share a file, or a photo would be overwritten.
    """
    if not cam.parent.is_dir():
        raise EffNetExtError(f"{cam}: there is no folder {cam.parent}")
    files = [cam] if len(images) == 1 else [cam.with_stem(f"{cam.stem}-{image.stem}") for image in images]
    if len(set(files)) < len(files):
        raise EffNetExtError(f"two photos have the same name, so that {cam} would be written twice; give one at a time")
    photos = {image.resolve() for image in images}
    for file in files:
        if file.resolve() in photos:
            raise EffNetExtError(f"{file}: --cam would overwrite the photo itself. Name another file")
    return files


def picture_file(text: str) -> Path:
    """Return the file that an option names, if pictures can be written under its suffix."""
    path = Path(text)
    if path.suffix.lower() not in _SUFFIXES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(_SUFFIXES)}, got {text!r}")
    return path
