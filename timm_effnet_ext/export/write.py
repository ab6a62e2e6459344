"""A classifier -> a file for other engines, written once it computes what the model computes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from timm_effnet_ext.errors import EffNetExtError, VerificationError
from timm_effnet_ext.export.graph import MIN_SIDE, FromPixels, for_inference, to_onnx, to_program
from timm_effnet_ext.export.int8 import Answers, to_int8
from timm_effnet_ext.files.storage import is_utf8, new_file
from timm_effnet_ext.predict.classifier import Classifier
from timm_effnet_ext.predict.onnx_file import LOGITS, PROBABILITIES, OnnxModel, check_onnx_is_there, describe
from timm_effnet_ext.predict.photos import read_photos

TOLERANCE = 1e-4
"""Largest difference of outputs over their size, or over 1 a photo if that is more (Euclidean norms).

Float32 in another order of sums differs by about 1e-6.
"""

ONNX, PROGRAM = ".onnx", ".pt2"
_MAX_SIDE = 1024  # pixels; larger images are tried at this size, at which all layers pad in the same way


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        static: For one image of the size that the weights are tested at; else for any number of any size above 32.
        with_preprocessing: Take pixels of 0 … 255 and give probabilities; resizing and cropping stay outside.
        int8: Compute in 8-bit integers, calibrated with every second photo of `images`.
        images: Folder of photos; without it those that installed packages bring are verified with.
        same_answers: Share of the other photos whose answer must stay the same in int8.
        overwrite: Replace a file that is there.
    """

    static: bool = False
    with_preprocessing: bool = False
    int8: bool = False
    images: Path | None = None
    same_answers: float = 0.97
    overwrite: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was verified.

    Attributes:
        file: What was written.
        size: The only height and width that it takes, None for any.
        output: "logits", or "probabilities" where it takes pixels of 0 … 255.
        photos: How many it was run on; on noise where there are none.
        sizes: Heights and widths at which it was run.
        difference: The largest over `sizes` of |file - model| / max(|model|, √photos), Euclidean norms of the outputs;
            more than 1e-4 is refused. Of the float32 graph, before `int8`.
        answers: What 8-bit integers do to the answers on photos that were not calibrated with, None without `int8`.
        float_layers: How many of the first convolutions stay in float32, None without `int8`.
    """

    file: Path
    size: tuple[int, int] | None
    output: str
    photos: int
    sizes: tuple[tuple[int, int], ...]
    difference: float
    answers: Answers | None
    float_layers: int | None


def export(classifier: Classifier, target: Path, options: ExportOptions = ExportOptions()) -> Exported:
    """Write a classifier as ONNX or, under the suffix `.pt2`, as a program of torch.export.

    The graph takes `image`, float32 (B, C, H, W), normalised with the classifier's mean and std, and gives `logits`,
    (B, outputs). With `with_preprocessing` it takes pixels of 0 … 255 and gives `probabilities`. The file says so
    itself, with the labels. It is run before it appears: on photos, at the usual size and two others unless `static`.

    Args:
        classifier: What `load_classifier` gives, but no exported file.
        target: Ends in `.onnx` or `.pt2`.
        options: How to export.

    Raises:
        EffNetExtError: The file is there already, its suffix is another one, or what the form needs is not installed.
            Or the classifier is an exported file.
        VerificationError: The file does not compute what the model computes, or in int8 too little of it.
    """
    check_file(target, options)
    if isinstance(classifier.model, OnnxModel):
        raise EffNetExtError("an exported file is not exported again: name the model that it was exported from")
    height, width = classifier.data_config["input_size"][1:]
    size = (height, width) if options.static else None
    model, output = for_inference(classifier.model), LOGITS
    if options.with_preprocessing:
        config = classifier.data_config
        model, output = FromPixels(model, config["mean"], config["std"], classifier.activation), PROBABILITIES
    photos = read_photos(options.images)
    with new_file(target) as part:
        run = _write(part, classifier, model, size, output)
        sizes = (size,) if size else _sizes(height, width)
        difference = max(_difference(classifier, model, run, photos, at, single=bool(size)) for at in sizes)
        if not difference <= TOLERANCE:
            raise VerificationError(
                f"{target.name} differs from the model by {difference:.1e} of its outputs (allowed: {TOLERANCE:g}). "
                "Nothing was written"
            )
        in_int8 = (
            to_int8(part, options.images, options.same_answers) if options.int8 and options.images else (None, None)
        )
    return Exported(target, size, output, len(photos), sizes, difference, *in_int8)


def check_file(target: Path, options: ExportOptions) -> None:
    """Raise over what can be known before a model is loaded.

    Raises:
        EffNetExtError: The file is there already, its path or suffix cannot be, or what its form needs is missing.
    """
    if not is_utf8(target):
        raise EffNetExtError(f"{target}: the path is no UTF-8. Choose another file")
    if target.suffix not in (ONNX, PROGRAM):
        raise EffNetExtError(f"{target}: ends in neither {ONNX} nor {PROGRAM}")
    if options.int8 and (target.suffix != ONNX or options.images is None):
        raise EffNetExtError(f"--int8 takes --images FOLDER to calibrate with, and writes {ONNX} alone")
    if target.suffix == ONNX:
        check_onnx_is_there()
    if target.exists() and (not options.overwrite or target.is_dir()):
        raise EffNetExtError(f"{target}: exists already. Choose another file, or pass --overwrite")


def _write(
    file: Path, classifier: Classifier, model: nn.Module, size: tuple[int, int] | None, output: str
) -> Callable[[Tensor], Tensor]:
    """Write the file, and return what computes it."""
    channels = classifier.data_config["input_size"][0]
    said = describe(classifier)
    if file.suffix == ONNX:
        written = to_onnx(model, channels, size, output)
        written.model.metadata_props.update(said)
        written.save(file)
        return OnnxModel(file).run
    program = io.BytesIO()  # first, as torch's writer of files ends the process where the disk is full
    torch.export.save(to_program(model, channels, size), program, extra_files={"config.json": json.dumps(said)})
    file.write_bytes(program.getbuffer())
    return torch.export.load(file).module()


def _sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Return three sizes, the first the usual one: even and odd, wide and high, none that was recorded with."""
    height, width = (min(n, _MAX_SIDE) for n in (height, width))
    sizes = ((height, width), (height * 3 // 4 | 1, width * 2 // 3), (height // 2, width // 2 | 1))
    return tuple((max(h, MIN_SIDE), max(w, MIN_SIDE)) for h, w in sizes)


def _difference(
    classifier: Classifier,
    model: nn.Module,
    run: Callable[[Tensor], Tensor],
    photos: Sequence[Image.Image],
    size: tuple[int, int],
    *,
    single: bool,
) -> float:
    """Return how much what is written differs from the model, on all photos at once or on each alone."""
    images = _images(classifier, photos, size)
    if isinstance(model, FromPixels):
        mean, std = (torch.tensor(classifier.data_config[name]).view(-1, 1, 1) for name in ("mean", "std"))
        pixels = 255 * (images * std + mean)
    else:
        pixels = images
    with torch.inference_mode():
        expected = classifier.probabilities(images) if isinstance(model, FromPixels) else classifier.model(images)
        found = torch.cat([run(part) for part in pixels.split(1 if single else len(pixels))])
    scale = max(float(torch.linalg.vector_norm(expected)), len(images) ** 0.5)
    return float(torch.linalg.vector_norm(found - expected)) / scale


def _images(classifier: Classifier, photos: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
    """Return what the model sees of photos at a size: (B, C, H, W); noise where there are none."""
    if not photos:
        channels = classifier.data_config["input_size"][0]
        return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    return torch.cat([classifier.image(photo, size) for photo in photos])
