"""The tensors of a Keras weights file, sorted: each layer's variables, optimizer slots and counters.

    [model_weights/]<outer layer>/…/<layer>/<variable>[:0]      Keras 2, tf_keras, and the legacy format of Keras 3
    layers/<class>_<n>/layers/<class>_<m>/vars/<i>              Keras 3 and every .keras file

In the second, counters follow the order of the layers in their model, `vars` the order in which a layer made its
variables; Keras 3.15 writes the layer's own name into the attribute `name` of `vars`, others leave it to the config.
Source: keras/src/legacy/saving/legacy_h5_format.py, keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from timm_effnet_ext.convert.checkpoint.checkpoint import Variables
from timm_effnet_ext.convert.checkpoint.tensors import TensorEntry
from timm_effnet_ext.convert.readers.keras.layer_graph import LayerGraph, Path
from timm_effnet_ext.errors import CheckpointFormatError

if TYPE_CHECKING:
    from timm_effnet_ext.convert.readers.keras.hdf5 import Hdf5

Layers = dict[Path, dict[str, TensorEntry]]

LAYER_NAME = "name"  # attribute of a `vars` group
MEAN, VARIANCE, COUNT = "mean", "variance", "count"
MOVING = ("moving_mean", "moving_variance")
BN_VARIABLES = ("gamma", "beta", *MOVING)
# The variables of a class, in the order of its `build`.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "batch_normalization": BN_VARIABLES,
    "dense": ("kernel", "bias"),
    "normalization": (MEAN, VARIANCE, COUNT),
}
_SLOTS = ("optimizer", "optimizer_weights")
# Metrics of a compiled model, and the state of random layers.
_COUNTERS = ("metrics", "compile_metrics", "_compile_metrics", "loss_tracker", "_loss_tracker")
_SEEDS = ("seed_generator", "seed_generator_state", "StateVar")
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the second: Keras 2.12 and 2.13
_LEGACY_ROOTS = ("model_weights", "top_level_model_weights")
_VARS = re.compile(r"(?P<layer>.*/)?vars/(?P<index>\d+)")
_NUMBER = re.compile(r"_\d+$")


@dataclass
class KerasWeights:
    """A file's tensors by what they are; `layers` by path where a graph knows it, else by the file's own names."""

    layers: Layers = field(default_factory=dict)
    slots: dict[str, TensorEntry] = field(default_factory=dict)
    counters: dict[str, TensorEntry] = field(default_factory=dict)
    folded: dict[str, TensorEntry] = field(default_factory=dict)

    def variables(self) -> Variables:
        """Return them under canonical names, `layer/variable`; a layer has its path where two have its name."""
        short = [path[-1] for path in self.layers]
        model = {}
        for path, tensors in self.layers.items():
            layer = path[-1] if short.count(path[-1]) == 1 else "/".join(path)
            model.update({f"{layer}/{leaf}": entry for leaf, entry in tensors.items()})
        return Variables(model, {}, self.slots, self.counters, folded=self.folded)


def read_weights(file: Hdf5, graph: LayerGraph | None) -> KerasWeights:
    """Return the tensors of a weights file or whole model, by the layers of `graph` if there is one.

    Raises:
        CheckpointFormatError: Tensors that no layer accounts for, or two for one place.
    """
    out = KerasWeights()
    is_new = any(_VARS.fullmatch(name) for name in file)
    for name in file:
        parts = name.split("/")
        leaf = parts[-1].partition(":")[0]
        if parts[0] in _SLOTS:
            out.slots[name] = file[name]
        elif parts[0] in _COUNTERS or leaf in _SEEDS or any(part in _SEEDS for part in parts):
            out.counters[name] = file[name]
        else:
            path, leaf = _new(file, name, graph) if is_new else _legacy(name, graph)
            layer = out.layers.setdefault(path, {})
            if leaf in layer:
                raise CheckpointFormatError(f"{name!r} and {layer[leaf].name!r} are both {path[-1]}/{leaf}")
            layer[leaf] = file[name]
    return out


def _legacy(name: str, graph: LayerGraph | None) -> tuple[Path, str]:
    """Return path and variable: the group of the outermost layer, then TensorFlow's name of the variable."""
    parts = name.partition(":")[0].split("/")
    outer, *rest = parts[1:] if parts[0] in _LEGACY_ROOTS else parts
    if len(rest) < 2:
        return (outer, *rest[:-1]), rest[-1] if rest else ""
    layer, leaf = rest[-2:]
    path: Path = (outer,) if outer == layer else (outer, layer)
    if graph is not None:
        ends = [node.path for node in graph.nodes if (node.path[0], node.name) == (outer, layer)]
        path = ends[0] if len(ends) == 1 else path
    return path, leaf


def _new(file: Hdf5, name: str, graph: LayerGraph | None) -> tuple[Path, str]:
    """Return path and variable: the class says what the number of a variable stands for."""
    found = _VARS.fullmatch(name)
    if found is None or not found["layer"]:
        raise CheckpointFormatError(f"{name!r} belongs to no layer")
    group = "/".join("layers" if part in _CONTAINERS else part for part in found["layer"].rstrip("/").split("/"))
    path = tuple(part for part in group.split("/") if part != "layers")
    kind, index = _NUMBER.sub("", path[-1]), int(found["index"])
    first = f"{found['layer']}vars/0"
    # A layer that is an attribute of a model in Python code has the attribute's name, which says no class.
    is_dense = kind not in VARIABLES and first in file and len(file[first].shape) == 2
    leaves = VARIABLES["dense"] if is_dense else VARIABLES.get(kind, ())
    leaf = leaves[index] if index < len(leaves) else found["index"]
    own_name = file.text(LAYER_NAME, f"{found['layer']}vars")
    if graph is None:
        return (*path[:-1], own_name) if own_name else path, leaf
    node = graph.by_group.get(group)
    if node is not None and own_name not in (None, node.name):
        raise CheckpointFormatError(f"{group!r} is {own_name!r} in the weights, {node.name!r} in the config")
    return node.path if node else path, leaf
