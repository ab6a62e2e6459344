"""What the layers and tensors of a Keras file come to: the Checkpoint, with what the file leaves open filled in."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from timm_effnet_ext.arch.rows import Arch
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Statement
from timm_effnet_ext.convert.readers.keras.fold import with_one_classifier
from timm_effnet_ext.convert.readers.keras.front import RESIZING, assumed, preprocessing
from timm_effnet_ext.convert.readers.keras.head import head, model_args
from timm_effnet_ext.convert.readers.keras.identities import without_droppings
from timm_effnet_ext.convert.readers.keras.interpreter import KerasGraph, check_kinds
from timm_effnet_ext.convert.readers.keras.layer_graph import LayerGraph, sensible
from timm_effnet_ext.convert.readers.keras.weights import KerasWeights
from timm_effnet_ext.errors import first_few
from timm_effnet_ext.files.hub_format import MULTI_LABEL, SINGLE_LABEL

_IMAGENET_CLASSES = 1000

_GRAPH = "the file's layers"
_APPLICATIONS = "assumed, as keras.applications puts it in front of this architecture"
_LOADER = "assumed, as Keras' image_dataset_from_directory resizes for a classifier of one's own"
_NO_GRAPH = "the file has no layer graph of the network: nothing in it can be compared with"
_UNSAID = (
    "the file has no layers that scale images: keras.applications documents -1 … 1 for V2 without preprocessing layers"
)
_PROBLEMS = {"softmax": SINGLE_LABEL, "sigmoid": MULTI_LABEL}


def keras_checkpoint(
    path: Path, kind: str, files: tuple[Path, ...], graph: LayerGraph | None, weights: KerasWeights
) -> Checkpoint:
    """Return what a file's layers and weights come to, whatever its format."""
    make = partial(Checkpoint, path, "keras", kind, files)
    if graph is None:
        return make(weights.variables(), habits=partial(_habits, weights), notes=(_NO_GRAPH,))
    graph, dropped = without_droppings(graph, weights.layers.keys())
    with sensible(), np.errstate(all="ignore"):  # numbers that are not finite are refused where they are said
        end = head(graph)
        check_kinds(graph, end.features)
        found = preprocessing(graph, weights.layers)
        args = model_args(graph, end.pool)
        whole = with_one_classifier(weights, end.dense)
    said = Statement(_GRAPH, model_args=args, preprocessing=found, problem_type=_PROBLEMS.get(end.activation or ""))
    has_mean = "mean" in found
    folded = [f"{first_few(node.name for node in end.dense)} were folded into one classifier"] if whole.folded else []
    is_whole = graph.network is None
    unsaid = [*([] if has_mean else [_UNSAID]), *([] if is_whole else [_NO_GRAPH])]
    return make(
        whole.variables(),
        statements=(said,),
        habits=partial(_habits, None),
        notes=(*dropped, *folded, *unsaid),
        graph=KerasGraph(graph, weights.layers, end.logits, end.features, has_mean) if is_whole else None,
        problem=end.problem,
    )


def _habits(weights: KerasWeights | None, arch: Arch, num_classes: int) -> tuple[Statement, ...]:
    """Return how users of Keras prepare images; `weights` are those of a file without config, which may hold a mean."""
    found = assumed(arch.name, weights.layers) if weights is not None else {}
    is_own = num_classes not in (0, _IMAGENET_CLASSES)
    said = (Statement(_APPLICATIONS, preprocessing=found), Statement(_LOADER, preprocessing=RESIZING if is_own else {}))
    return tuple(statement for statement in said if statement.preprocessing)
