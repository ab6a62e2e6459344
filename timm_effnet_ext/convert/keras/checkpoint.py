"""What the layers and tensors of a Keras file come to: the Checkpoint, with what the file leaves open filled in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from timm_effnet_ext.arch import ARCHS
from timm_effnet_ext.convert.checkpoint import Checkpoint, Variables
from timm_effnet_ext.convert.identify import identify
from timm_effnet_ext.convert.keras.config import LayerGraph, sensible
from timm_effnet_ext.convert.keras.config import Path as LayerPath
from timm_effnet_ext.convert.keras.dialects import KERAS_DIALECTS
from timm_effnet_ext.convert.keras.graph import check_kinds, evaluate
from timm_effnet_ext.convert.keras.model import has_paddings, head, model_args, wrong_paddings
from timm_effnet_ext.convert.keras.preprocessing import RESIZING, assumed, preprocessing
from timm_effnet_ext.convert.keras.weights import CLASSIFIER, KerasWeights
from timm_effnet_ext.errors import VerificationError, first_few

_STRIDE = 32  # of the whole network: at its multiples every stage sees an even size
_EVEN = 224

_IMAGENET_CLASSES = 1000

_NO_GRAPH = "the file has no layer graph: nothing in it can be compared with"
_ASSUMED = "the file has no config: mean and std are what keras.applications puts in front of this architecture"
_UNSAID = (
    "the file says no preprocessing: mean and std are those of the architecture's pretrained weights; set them in "
    "config.json if the images were scaled otherwise (keras.applications: -1 … 1 for V2 without preprocessing layers)"
)
_RESIZED = "the classifier is the user's: images are resized whole, as Keras' image_dataset_from_directory does"
_EVEN_ONLY = (
    "the graph was built without a size and pads for even ones, at odd ones not as TensorFlow's SAME does, with which "
    "its weights were trained and which the converted model has: input_size {}x{} became {}x{}, where both agree"
)


def keras_checkpoint(
    path: Path, kind: str, files: tuple[Path, ...], graph: LayerGraph | None, weights: KerasWeights
) -> Checkpoint:
    """Return what a file's layers and weights come to, whatever its format."""
    what = str(path)
    end = None
    if graph is not None:
        check_kinds(graph, what)
        with sensible(what):
            end = head(graph, what)
    variables = weights.variables(what)
    make = partial(Checkpoint, path=path, framework="keras", format=kind, files=files, variables=variables)
    kernel = variables.model.get(f"{CLASSIFIER}/kernel")
    is_own = kernel is not None and kernel.shape[-1] != _IMAGENET_CLASSES
    resizing, notes = (RESIZING, [_RESIZED]) if is_own else ({}, [])
    if graph is None or end is None:
        found = _assumed(variables, weights)
        return make(preprocessing={**resizing, **found}, notes=(_NO_GRAPH, _ASSUMED if found else _UNSAID, *notes))
    with sensible(what):
        found = preprocessing(graph, weights.layers, what)
        notes += [] if "mean" in found else [_UNSAID]
        notes += _fit_size(graph, found, variables)
        args = model_args(graph, end.pool, what)
    return make(
        preprocessing={**resizing, **found},
        model_args=args,
        activation=end.activation,
        notes=tuple(notes),
        graph=partial(_evaluate, graph, weights, end.logits),
        graph_takes_pixels="mean" in found,
    )


def _fit_size(graph: LayerGraph, found: dict[str, Any], variables: Variables) -> list[str]:
    """Change `input_size` to one at which the graph pads as our model does; return what there is to say."""
    notes = []
    if has_paddings(graph):
        channels, *size = found.get("input_size") or (graph.input_shape[2] or 3, *_default_size(variables))
        if wrong_paddings(graph, *size):
            found["input_size"] = (channels, *(max(_STRIDE, round(n / _STRIDE) * _STRIDE) for n in size))
            notes.append(_EVEN_ONLY.format(*size, *found["input_size"][1:]))
    if "input_size" in found:
        found["test_input_size"] = found["input_size"]
    return notes


def _evaluate(graph: LayerGraph, weights: KerasWeights, output: LayerPath, images: np.ndarray) -> np.ndarray:
    """Evaluate the graph at a size for which its paddings were made."""
    with sensible("the graph"):
        wrong = wrong_paddings(graph, *images.shape[1:3])
    if wrong:
        raise VerificationError(
            f"the graph was built for images of another size than {images.shape[1:3]}: {first_few(wrong)} pad otherwise"
        )
    return evaluate(graph, weights.layers, images, output)


def _archs(variables: Variables) -> set[str]:
    """Return the architectures that the variables fit, for what a file does not say of itself."""
    shapes = {name: entry.shape for name, entry in variables.model.items()}
    return {candidate.match.arch_name for candidate in identify(shapes, KERAS_DIALECTS)}


def _assumed(variables: Variables, weights: KerasWeights) -> dict[str, Any]:
    found = [assumed(arch, weights.layers) for arch in _archs(variables)]
    return found[0] if found and all(one == found[0] for one in found) else {}


def _default_size(variables: Variables) -> tuple[int, int]:
    sizes = {ARCHS[arch].eval_size for arch in _archs(variables)}
    return (size := sizes.pop() if len(sizes) == 1 else _EVEN), size
