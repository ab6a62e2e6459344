"""Evaluates the layer graph of a Keras file with torch: the reference that a conversion is compared with.

It takes each layer's settings from the config and its weights from the file, by the layer's name, and shares nothing
with the tables that map names and layouts; computation.py says what each layer computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from timm_effnet_ext.convert.readers.keras.computation import LAYERS, activated
from timm_effnet_ext.convert.readers.keras.front import front_end
from timm_effnet_ext.convert.readers.keras.layer_graph import INPUT, LayerGraph, Node, Path, sensible, wrong_paddings
from timm_effnet_ext.convert.readers.keras.weights import Weights
from timm_effnet_ext.errors import CheckpointFormatError, NameMappingError, VerificationError, first_few

_RATES = ("rate", "drop_rate", "drop_prob", "drop_connect_rate")
# What every layer and Dropout have beside a rate.
_USUAL = frozenset({
    "name", "trainable", "dtype", "batch_input_shape", "noise_shape", "seed", "data_format", "scale_by_keep",
    "training",
})  # fmt: skip


def without_droppings(graph: LayerGraph, weighted: Collection[Path]) -> tuple[LayerGraph, tuple[str, ...]]:
    """Return a graph in which custom layers that drop are Dropout, and what was assumed; `weighted` have weights.

    They are told by what their config shows, as their code is never run: a rate and nothing else, one input and no
    weights, as of the FixedDropout of qubvel/efficientnet.
    """
    found = [node for node in graph.nodes if node.path not in weighted and _drops(node)]
    if not found:
        return graph, ()
    paths = {node.path for node in found}
    nodes = tuple(replace(node, kind="Dropout") if node.path in paths else node for node in graph.nodes)
    kinds = first_few({node.kind for node in found})
    note = f"{kinds} ({len(found)} layers with a rate and without weights) was assumed to do nothing at inference"
    return replace(graph, nodes=nodes), (note,)


def _drops(node: Node) -> bool:
    rates = [node.config[name] for name in _RATES if name in node.config]
    is_plain = node.config.keys() <= _USUAL | set(_RATES) and len(node.inputs) == 1
    return node.kind not in LAYERS and is_plain and len(rates) == 1 and isinstance(rates[0], int | float)


def check_kinds(graph: LayerGraph, features: Path) -> None:
    """Raise unless every layer up to the network's own last one, `features`, is one of `LAYERS`.

    Raises:
        NameMappingError: A layer that no EfficientNet of Keras has; what a class does is never looked up.
    """
    is_head = False
    for node in graph.nodes:
        if node.kind not in LAYERS and node is not graph.network and not is_head:
            raise NameMappingError(
                f"layer {node.name!r} is {node.kind}, which no EfficientNet of Keras has. Save it without"
            )
        policy = node.config.get("dtype")
        policy = policy if isinstance(policy, dict) else {}
        if str(policy.get("class_name")).startswith("Quantized"):
            mode = (policy.get("config") or {}).get("mode", "another type")
            raise NameMappingError(
                f"layer {node.name!r} is quantised to {mode}. Save the model before quantize({mode!r})"
            )
        is_head = is_head or node.path == features


@dataclass(frozen=True)
class KerasGraph:
    """The layer graph of a file with the weights of its layers: what `convert.checkpoint.Graph` is for Keras.

    `output` is the last layer before the last activation, `features` the network's own last one. The graph has passed
    `check_kinds`.
    """

    layers: LayerGraph
    weights: Mapping[Path, Weights]
    output: Path
    features: Path
    has_preprocessing: bool

    def headless(self) -> KerasGraph:
        """Return the graph up to the network's own last layer, whose map `compute` averages."""
        return replace(self, output=self.features)

    def fits(self, height: int, width: int) -> bool:
        """Whether the padding layers pad images of that size as TensorFlow's SAME does."""
        return not wrong_paddings(self.layers, height, width)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Return what the first convolution or padding layer gets of images (B, H, W, C) of 0 … 255.

        Raises:
            VerificationError: Images of another size than a Resizing layer in front gives.
            NameMappingError: A setting that no EfficientNet of Keras has.
        """
        end = front_end(self.layers)
        return images if end == INPUT else self._run(images, INPUT, end)

    def compute(self, inputs: np.ndarray) -> np.ndarray:
        """Return what the layer `output` gives for what the network gets; of a Dense layer, before its activation.

        Feature maps are averaged to (B, C), as timm does without a classifier.

        Raises:
            VerificationError: The graph was built for another size.
            NameMappingError: A setting that no EfficientNet of Keras has.
        """
        size = inputs.shape[1:3]
        if wrong := wrong_paddings(self.layers, *size):
            raise VerificationError(
                f"the graph was built for images of another size than {size}: {first_few(wrong)} pad otherwise"
            )
        return self._run(inputs, front_end(self.layers), self.output)

    def _run(self, images: np.ndarray, start: Path, end: Path) -> np.ndarray:
        """Return what the layer `end` gives where `start` gives `images`, as images or pooled."""
        import torch

        uses = Counter(path for node in self.layers.nodes for path in node.inputs)
        values: dict[Path, Any] = {
            start: torch.from_numpy(np.ascontiguousarray(images, np.float64)).permute(0, 3, 1, 2)
        }
        with torch.inference_mode():
            for node in self.layers.nodes:
                if node.path == start or not set(node.inputs) <= values.keys():
                    continue  # in front of the start
                with sensible(f"layer {node.name!r}: a setting"):
                    taken = [values[path] for path in node.inputs]
                    value = LAYERS[node.kind](node, self.weights.get(node.path, {}), taken)
                    if node.path != end or node.kind != "Dense":
                        value = activated(node, value)
                if node.path == end:
                    is_map = end == self.output and value.ndim == 4
                    return (value.mean((2, 3)) if is_map else value.movedim(1, -1)).numpy()
                values[node.path] = value
                for path in node.inputs:
                    uses[path] -= 1
                    if not uses[path]:
                        del values[path]
        raise CheckpointFormatError(f"the model gives {end}, which is no layer of it")
