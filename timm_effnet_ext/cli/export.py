"""`export`: a classifier in one file for ONNX Runtime and other engines, or as a program of torch.export."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from timm_effnet_ext.arch.rows import PREFIX
from timm_effnet_ext.cli.arguments import number, positive
from timm_effnet_ext.cli.output import print_facts, print_json

if TYPE_CHECKING:
    from timm_effnet_ext.export.write import Exported
    from timm_effnet_ext.predict.classifier import Classifier

_share = number("share", positive, lambda x: x <= 1, "must be at most 1, got {text}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the file, and what it is to take and to give."""
    parser.add_argument(
        "model", metavar="MODEL", help=f"{PREFIX}NAME[.TAG] for pretrained weights, a timm folder, or hf-hub:USER/REPO"
    )
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True, help="FILE.onnx or FILE.pt2")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--static", action="store_true", help="for one image of the size that the weights are tested at"
    )
    parser.add_argument(
        "--with-preprocessing", action="store_true", help="take pixels of 0 … 255 and give probabilities"
    )
    parser.add_argument("--images", metavar="FOLDER", type=Path, help="photos to verify and calibrate with")
    parser.add_argument(
        "--int8", action="store_true", help="compute in 8-bit integers, calibrated with every second photo of --images"
    )
    parser.add_argument(
        "--same-answers",
        type=_share,
        default=0.97,
        metavar="SHARE",
        help="of the other photos, whose answer must stay the same in int8 (default: 0.97)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> None:
    """Write the file; what can be known to go wrong is said before the model is loaded."""
    from timm_effnet_ext.export.write import ExportOptions, check_file, export
    from timm_effnet_ext.predict.classifier import load_classifier

    options = ExportOptions(
        static=args.static, with_preprocessing=args.with_preprocessing, int8=args.int8,
        images=args.images, same_answers=args.same_answers, overwrite=args.overwrite,
    )  # fmt: skip
    check_file(args.out, options)
    classifier = load_classifier(args.model)
    exported = export(classifier, args.out, options)
    if args.json:
        return print_json(_record(exported))
    print_facts(_facts(classifier, exported))


def _facts(classifier: Classifier, exported: Exported) -> Iterator[tuple[str, str]]:
    from timm_effnet_ext.export.graph import MIN_SIDE

    config = classifier.data_config
    sizes = f"{exported.size[0]} x {exported.size[1]}" if exported.size else f"any size from {MIN_SIDE} pixels"
    mean, std = (", ".join(f"{value:.6g}" for value in config[name]) for name in ("mean", "std"))
    takes = "pixels of 0 … 255" if exported.output == "probabilities" else f"mean {mean}; std {std}"
    yield "takes", f"{'one image' if exported.size else 'any number of images'}, {sizes}: {takes}"
    yield "gives", f"{exported.output}: {classifier.meaning}"
    tried = ", ".join(f"{height} x {width}" for height, width in exported.sizes)
    what = f"on {exported.photos} photos" if exported.photos else "on noise, as no photos are installed"
    yield "verified", f"{what} at {tried}: differs by {exported.difference:.1e} of the model's outputs"
    if exported.answers:
        layers = f"the first {exported.float_layers} convolutions stay in float32"
        yield "int8", f"on photos that were not calibrated with, {exported.answers}; {layers}"
    yield "wrote", f"{exported.file}: {exported.file.stat().st_size / 1e6:.1f} MB"


def _record(exported: Exported) -> dict[str, object]:
    answers = exported.answers
    return {**vars(exported), "file": str(exported.file), "answers": answers._asdict() if answers else None}
