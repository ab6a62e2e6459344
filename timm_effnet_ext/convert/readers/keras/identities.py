"""Layers of a user's own that do nothing at inference, told by what their config shows; their code is never run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from timm_effnet_ext.convert.readers.keras.computation import LAYERS
from timm_effnet_ext.convert.readers.keras.layer_graph import LayerGraph, Node, Path
from timm_effnet_ext.errors import first_few

_RATES = ("rate", "drop_rate", "drop_prob", "drop_connect_rate")
# What every layer and Dropout have beside a rate.
_USUAL = frozenset({
    "name", "trainable", "dtype", "batch_input_shape", "noise_shape", "seed", "data_format", "scale_by_keep",
    "training",
})  # fmt: skip
_LIKE = "Dropout"


def without_droppings(graph: LayerGraph, weighted: Collection[Path]) -> tuple[LayerGraph, tuple[str, ...]]:
    """Return a graph in which custom layers that drop are Dropout, and what was assumed; `weighted` have weights.

    Such a layer has a rate and nothing else, one input and no weights, as the FixedDropout of qubvel/efficientnet.
    """
    found = [node for node in graph.nodes if node.path not in weighted and _drops(node)]
    if not found:
        return graph, ()
    paths = {node.path for node in found}
    nodes = tuple(replace(node, kind=_LIKE) if node.path in paths else node for node in graph.nodes)
    kinds = first_few({node.kind for node in found})
    note = f"{kinds} ({len(found)} layers with a rate and without weights) was assumed to do nothing at inference"
    return replace(graph, nodes=nodes), (note,)


def _drops(node: Node) -> bool:
    rates = [node.config[name] for name in _RATES if name in node.config]
    is_plain = node.config.keys() <= _USUAL | set(_RATES) and len(node.inputs) == 1
    return node.kind not in LAYERS and is_plain and len(rates) == 1 and isinstance(rates[0], int | float)
