"""An ONNX file in 8-bit integers, calibrated with photos, and how many answers on other photos stay the same.

Some parts of an EfficientNet stay in float32, as they lose the most and gain the least: the first layers, whose
channels differ widely in scale, squeeze-and-excitation, SiLU, and the classifier.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from timm_effnet_ext.errors import EffNetExtError, VerificationError
from timm_effnet_ext.predict.classifier import Classifier
from timm_effnet_ext.predict.onnx_file import IMAGE, load_onnx
from timm_effnet_ext.predict.photos import photo_files, read_photo

FLOAT_LAYERS = (1, 3, 6, 9, 12)
"""How many of the first convolutions stay in float32: the fewest are tried first, until the answers stay the same."""

MIN_PHOTOS = 16
_CALIBRATED_WITH = 256  # photos at most: more change the ranges of activations no longer
_OPERATORS = ("Conv", "Clip", "Relu", "Add")  # of SiLU none: its Sigmoid and Mul lose much and gain nothing


class Answers(NamedTuple):
    """What 8-bit integers do to the answers on photos that were not calibrated with.

    The answer is the most probable class, or where each output is a class by itself all that are more probable than
    not.

    Attributes:
        photos: How many were judged.
        same: On how many of them the answer stays the same.
        largest_move: By how much a probability moves at most, from 0 to 1.
        mean_move: The mean over the photos of how much the probability moves that moves most.
        float_layers: How many of the first convolutions stay in float32.
    """

    photos: int
    same: int
    largest_move: float
    mean_move: float
    float_layers: int

    def __str__(self) -> str:
        return (
            f"{self.same} of {self.photos} answers stay the same on photos that were not calibrated with; the "
            f"probability that moves most in a photo moves by {self.mean_move:.3f} on average, "
            f"{self.largest_move:.3f} at most; the first {self.float_layers} convolutions stay in float32"
        )


def to_int8(file: Path, images: Path, same_answers: float) -> Answers:
    """Put a file of `export` into 8-bit integers, in its place.

    Args:
        file: It has been verified.
        images: Folder of at least `MIN_PHOTOS` photos: every second calibrates, the others judge.
        same_answers: Share of the others whose answer must stay the same.

    Raises:
        EffNetExtError: Too few photos.
        VerificationError: Too few answers stay the same.
    """
    paths = photo_files(images)
    if len(paths) < MIN_PHOTOS:
        raise EffNetExtError(
            f"{images}: {len(paths)} photos, expected at least {MIN_PHOTOS} to calibrate and judge with"
        )
    calibrating, judging = paths[::2][:_CALIBRATED_WITH], paths[1::2]
    classifier = load_onnx(file)
    expected = _probabilities(classifier, judging)
    tried = []
    quantized = file.with_name(f"int8-{file.name}")
    for count in FLOAT_LAYERS:
        _quantize(file, quantized, classifier, calibrating, count)
        tried.append(_compared(expected, _probabilities(load_onnx(quantized), judging), classifier, count))
        if tried[-1].same >= same_answers * len(judging):
            quantized.replace(file)
            return tried[-1]
    best = max(tried, key=lambda one: one.same)
    raise VerificationError(
        f"in int8 {best}. Fewer than the share of {same_answers:g} that is asked for: give photos like those that the "
        "model was trained for, or a smaller --same-answers. Nothing was written"
    )


def _quantize(file: Path, target: Path, classifier: Classifier, photos: Sequence[Path], float_layers: int) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Photos(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._feeds = ({IMAGE: classifier.image(read_photo(path)).numpy()} for path in photos)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    with _quiet():
        quantize_static(
            file, target, Photos(), per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_OPERATORS), nodes_to_exclude=[*_in_float(onnx.load(file).graph, float_layers)],
        )  # fmt: skip


def _in_float(graph: Any, float_layers: int) -> Iterator[str]:
    """Yield the names of nodes that stay in float32: the first convolutions, the attention, sums with a constant."""
    constants = {tensor.name for tensor in graph.initializer}
    means: set[str] = set()  # of channels, and what is computed of them alone
    convs = 0
    for node in graph.node:
        inputs = {name for name in node.input if name and name not in constants}
        if node.op_type == "ReduceMean" or (inputs and inputs <= means):
            means.update(node.output)
            yield node.name
        elif node.op_type == "Conv":
            convs += 1
            if convs <= float_layers:
                yield node.name
        elif len(inputs) < len(node.input) and node.op_type == "Add":
            yield node.name


def _probabilities(classifier: Classifier, photos: Sequence[Path]) -> Tensor:
    """Return the probabilities of each photo: (photos, classes)."""
    return torch.cat([classifier.probabilities(classifier.image(read_photo(path))) for path in photos])


def _compared(expected: Tensor, found: Tensor, classifier: Classifier, float_layers: int) -> Answers:
    if classifier.activation == "sigmoid":
        same = ((expected > 0.5) == (found > 0.5)).all(-1)
    else:
        same = expected.argmax(-1) == found.argmax(-1)
    moved = (expected - found).abs().amax(-1)
    return Answers(len(same), int(same.sum()), float(moved.max()), float(moved.mean()), float_layers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the quantizer logs: it advises a preparation that an exported graph does not need."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
