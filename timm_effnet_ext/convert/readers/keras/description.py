"""What the layers and tensors of a Keras file come to: the Checkpoint, with what the file leaves open filled in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from timm_effnet_ext.arch import ARCHS
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Statement, Variables
from timm_effnet_ext.convert.dialects.keras import KERAS_DIALECTS
from timm_effnet_ext.convert.dialects.match import identify
from timm_effnet_ext.convert.readers.keras.front import RESIZING, assumed, preprocessing
from timm_effnet_ext.convert.readers.keras.head import has_paddings, head, model_args, wrong_paddings
from timm_effnet_ext.convert.readers.keras.interpreter import KerasGraph, check_kinds
from timm_effnet_ext.convert.readers.keras.layer_graph import LayerGraph, sensible
from timm_effnet_ext.convert.readers.keras.weights import CLASSIFIER, KerasWeights
from timm_effnet_ext.outputs import MULTI_LABEL, SINGLE_LABEL

_STRIDE = 32  # of the whole network: at its multiples every stage sees an even size
_EVEN = 224

_IMAGENET_CLASSES = 1000

_GRAPH = "the file's layers"
_APPLICATIONS = "assumed, as keras.applications puts it in front of this architecture"
_LOADER = "assumed, as Keras' image_dataset_from_directory resizes for a classifier of one's own"
_SCALED = "-1 … 1 for V2 without preprocessing layers is what keras.applications documents"
_NO_GRAPH = "the file has no layer graph: nothing in it can be compared with"
_UNSAID = f"the file has no layers that scale images ({_SCALED})"
_EVEN_ONLY = (
    "the graph was built without a size and pads for even ones, at odd ones not as TensorFlow's SAME does, with which "
    "its weights were trained and which the converted model has: input_size {}x{} became {}x{}, where both agree"
)
_PROBLEMS = {"softmax": SINGLE_LABEL, "sigmoid": MULTI_LABEL}


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
    habits = (Statement(_LOADER, preprocessing=RESIZING),) if is_own else ()
    if graph is None or end is None:
        found = _assumed(variables, weights)
        usual = Statement(_APPLICATIONS, preprocessing=found)
        return make(statements=(usual, *habits), notes=(_NO_GRAPH, *([] if found else [_UNSAID])))
    with sensible(what):
        found = preprocessing(graph, weights.layers, what)
        notes = [] if "mean" in found else [_UNSAID]
        notes += _fit_size(graph, found, variables)
        args = model_args(graph, end.pool, what)
    said = Statement(_GRAPH, model_args=args, preprocessing=found, problem_type=_PROBLEMS.get(end.activation or ""))
    return make(
        statements=(said, *habits),
        notes=tuple(notes),
        graph=KerasGraph(graph, weights.layers, end.logits, has_preprocessing="mean" in found),
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
