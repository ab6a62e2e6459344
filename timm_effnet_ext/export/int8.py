"""An ONNX file in 8-bit integers, calibrated with photos, and how many answers on other photos stay the same.

Some parts of an EfficientNet stay in float32, as they lose the most and gain the least: the first layers, whose
channels differ widely in scale, what squeeze-and-excitation computes of the means, and the classifier.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from timm_effnet_ext.errors import EffNetExtError, VerificationError
from timm_effnet_ext.files.hub_format import Activation
from timm_effnet_ext.files.storage import sha256
from timm_effnet_ext.predict.classifier import Classifier
from timm_effnet_ext.predict.onnx_file import IMAGE, load_onnx
from timm_effnet_ext.predict.photos import photo_files, read_photo

FLOAT_LAYERS = (1, 3, 6, 9, 12)
"""How many of the first convolutions stay in float32: the fewest are tried first, until the answers stay the same."""

MIN_PHOTOS = 16
_POOLING = "GlobalAveragePool"
_CALIBRATED_WITH = 256  # photos at most: more change the ranges of activations no longer
# Sigmoid and Mul are SiLU: in float32 each would stand between two conversions, which take longer than it does.
_OPERATORS = ("Conv", "Clip", "Relu", "Add", "Sigmoid", "Mul", _POOLING)


class Answers(NamedTuple):
    """What other numbers, such as 8-bit integers, do to the answers on photos.

    The answer is the most probable class, or where each output is a class by itself all that are more probable than
    not.

    Attributes:
        photos: How many were judged.
        same: On how many of them the answer stays the same.
        largest_move: By how much a probability moves at most, from 0 to 1.
        mean_move: The mean over the photos of how much the probability moves that moves most.
    """

    photos: int
    same: int
    largest_move: float
    mean_move: float

    def __str__(self) -> str:
        return (
            f"{self.same} of {self.photos} answers stay the same; the probability that moves most in a photo moves by "
            f"{self.mean_move:.3f} on average, {self.largest_move:.3f} at most"
        )


def compare(expected: Tensor, found: Tensor, activation: Activation) -> Answers:
    """Compare probabilities (photos, classes), which `activation` made of logits."""
    if activation == "sigmoid":
        same = ((expected > 0.5) == (found > 0.5)).all(-1)
    else:
        same = expected.argmax(-1) == found.argmax(-1)
    moved = (expected - found).abs().amax(-1)
    return Answers(len(same), int(same.sum()), float(moved.max()), float(moved.mean()))


def to_int8(file: Path, images: Path, same_answers: float) -> tuple[Answers, int]:
    """Put a file of `export` into 8-bit integers, in its place.

    Returns:
        What that does to the answers, and how many of the first convolutions stay in float32.

    Args:
        file: It has been verified.
        images: Folder of at least `MIN_PHOTOS` different photos: every second calibrates, the others judge.
        same_answers: Share of the others whose answer must stay the same.

    Raises:
        EffNetExtError: Too few photos.
        VerificationError: Too few answers stay the same.
    """
    paths = list({sha256(path): path for path in photo_files(images)}.values())  # none calibrates and judges
    if len(paths) < MIN_PHOTOS:
        raise EffNetExtError(
            f"{images}: {len(paths)} different photos, expected at least {MIN_PHOTOS} to calibrate and judge with"
        )
    calibrating, judging = paths[::2][:_CALIBRATED_WITH], paths[1::2]
    classifier = load_onnx(file)
    expected = _probabilities(classifier, judging)
    tried = []
    quantized = file.with_name(f"int8-{file.name}")
    for count in FLOAT_LAYERS:
        quantize(file, quantized, (classifier.image(read_photo(path)).numpy() for path in calibrating), count)
        tried.append(compare(expected, _probabilities(load_onnx(quantized), judging), classifier.activation))
        if tried[-1].same >= same_answers * len(judging):
            quantized.replace(file)
            return tried[-1], count
    best = max(tried, key=lambda one: one.same)
    raise VerificationError(
        f"in int8, on photos that were not calibrated with, {best}. Fewer than the share of {same_answers:g} that is "
        "asked for: give photos like those that the model was trained for, or a smaller --same-answers. "
        "Nothing was written"
    )


def quantize(file: Path, target: Path, images: Iterable[Any], float_layers: int) -> None:
    """Write `file` in 8-bit integers to `target`.

    Args:
        images: Arrays (B, C, H, W) as the graph takes them, to calibrate with.
        float_layers: How many of the first convolutions stay in float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._feeds = ({IMAGE: image} for image in images)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    model = onnx.load(file)
    _write_means_as_pooling(model.graph)
    with _quiet():
        quantize_static(
            model, target, Images(), per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_OPERATORS), nodes_to_exclude=[*_in_float(model.graph, float_layers)],
        )  # fmt: skip


def _write_means_as_pooling(graph: Any) -> None:
    """Write the means of channels, as squeeze-and-excitation has them, as the operator that takes integers."""
    from onnx.numpy_helper import to_array

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
            continue
        keeps = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        if keeps and sorted(axis % 4 for axis in to_array(constants[node.input[1]]).tolist()) == [2, 3]:
            node.op_type = _POOLING
            del node.input[1], node.attribute[:]
    taken = {name for node in graph.node for name in node.input}
    for tensor in constants.values():
        if tensor.name not in taken:  # ONNX Runtime warns of each
            graph.initializer.remove(tensor)


def _in_float(graph: Any, float_layers: int) -> Iterator[str]:
    """Yield the names of nodes that stay in float32: up to the first convolutions, what is computed of means, the last.

    What follows the last pooling is the classifier.
    """
    constants = {tensor.name for tensor in graph.initializer}
    poolings = [node.name for node in graph.node if node.op_type == _POOLING]
    means: set[str] = set()  # of channels, and what is computed of them alone
    convs = 0
    for node in graph.node:
        inputs = {name for name in node.input if name and name not in constants}
        is_of_means = bool(inputs) and inputs <= means
        convs += node.op_type == "Conv" and not is_of_means
        if is_of_means or node.op_type in ("ReduceMean", _POOLING):
            means.update(node.output)
        is_shifted = len(inputs) < len(node.input) and node.op_type in ("Add", "Mul")  # by a constant
        if is_of_means or convs <= float_layers or is_shifted or node.name in poolings[-1:]:
            yield node.name


def _probabilities(classifier: Classifier, photos: Sequence[Path]) -> Tensor:
    """Return the probabilities of each photo: (photos, classes)."""
    return torch.cat([classifier.probabilities(classifier.image(read_photo(path))) for path in photos])


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
