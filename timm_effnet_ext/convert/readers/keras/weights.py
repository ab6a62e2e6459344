"""The tensors of a Keras weights file, sorted: each layer's variables, optimizer slots and counters.

    [model_weights/]<outer layer>/…/<layer>/<variable>[:0]      Keras 2, tf_keras, and the legacy format of Keras 3
    layers/<class>_<n>/layers/<class>_<m>/vars/<i>              Keras 3 and every .keras file

In the second, counters follow the order of the layers in their model, `vars` the order in which a layer made its
variables; Keras 3.15 writes the layer's own name into the attribute `name` of `vars`, others leave it to the config.
Source: keras/src/legacy/saving/legacy_h5_format.py, keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry, Variables
from timm_effnet_ext.convert.readers.keras.layer_graph import LayerGraph, Node, Path
from timm_effnet_ext.errors import CheckpointFormatError

if TYPE_CHECKING:
    from timm_effnet_ext.convert.readers.keras.hdf5 import Hdf5

Weights = Mapping[str, TensorEntry]
"""The variables of one layer by their own names."""

Layers = dict[Path, dict[str, TensorEntry]]

LAYER_NAME = "name"  # attribute of a `vars` group
MOVING = ("moving_mean", "moving_variance")
# The variables of a class, in the order of its `build`.
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", *MOVING),
    "dense": ("kernel", "bias"),
    "normalization": ("mean", "variance", "count"),
}
_SLOTS = ("optimizer", "optimizer_weights")
# Metrics of a compiled model, and the state of random layers.
_COUNTERS = ("metrics", "compile_metrics", "_compile_metrics", "loss_tracker", "_loss_tracker")
_SEEDS = ("seed_generator", "seed_generator_state", "StateVar")
_COUNTING_TWICE = "_layer_checkpoint_dependencies"  # Keras 2.12 and 2.13
_CONTAINERS = ("layers", _COUNTING_TWICE)
_CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
_MOST_NUMBERED = 8  # an attention layer of Keras 3 has them
_LEGACY_ROOTS = ("model_weights", "top_level_model_weights")
_VARS = re.compile(r"(?P<layer>.*/)?vars/(?P<index>\d+)")
_NUMBER = re.compile(r"_\d{1,9}$")


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
    model = []
    for name in file:
        parts = name.split("/")
        if parts[0] in _SLOTS:
            out.slots[name] = file[name]
        elif parts[0] in _COUNTERS or any(part.partition(":")[0] in _SEEDS for part in parts):
            out.counters[name] = file[name]
        else:
            model.append(name)
    _check_named(model)
    groups = _Groups(file, graph)
    if groups.paths:
        places = {name: groups.place(name) for name in model}
    else:
        places = {name: _legacy(name, graph, in_full=False) for name in model}
        if len(set(places.values())) < len(places):
            places = {name: _legacy(name, graph, in_full=True) for name in model}
    for name, (path, leaf) in places.items():
        layer = out.layers.setdefault(path, {})
        if leaf in layer:
            raise CheckpointFormatError(f"{name!r} and {layer[leaf].name!r} are both {path[-1]}/{leaf}")
        layer[leaf] = file[name]
    if graph is None and groups.paths:
        out.layers = _apart_from_network(out.layers)
    return out


def _legacy(name: str, graph: LayerGraph | None, *, in_full: bool) -> tuple[Path, str]:
    """Return path and variable: the group of the outermost layer, then TensorFlow's name of the variable.

    That name has scopes before its last two parts, which are needed only where these do not tell variables apart
    (`in_full`), as of a model of Google's code in one layer.
    """
    parts = name.partition(":")[0].split("/")
    outer, *rest = parts[1:] if parts[0] in _LEGACY_ROOTS else parts
    if len(rest) < 2:
        return (outer, *rest[:-1]), rest[-1] if rest else ""
    layer, leaf = rest[-2:]
    if in_full and len(rest) > 2:
        return ("/".join(rest[:-1]),), leaf
    path: Path = (outer,) if outer == layer else (outer, layer)
    if graph is not None:
        ends = [node.path for node in graph.nodes if (node.path[0], node.name) == (outer, layer)]
        path = ends[0] if len(ends) == 1 else path
    return path, leaf


def _check_named(names: Iterable[str]) -> None:
    """Raise for a layer with more variables by number than any layer of Keras' has."""
    groups = Counter(name.removesuffix(f"/{leaf}") for name in names if (leaf := name.rpartition("/")[2]).isdigit())
    for group, count in groups.items():
        if count > _MOST_NUMBERED:
            raise CheckpointFormatError(
                f"{group!r} has {count} variables by number, without names, as Keras saves a hub.KerasLayer in this "
                "format. Save the whole model in Keras 2 (tf_keras): model.save('model.h5')"
            )


class _Groups:
    """The groups of a file that have variables by number, as Keras 3 writes them, and the layers that they are."""

    def __init__(self, file: Hdf5, graph: LayerGraph | None) -> None:
        self.file = file
        found = {match["layer"] for name in file if (match := _VARS.fullmatch(name)) and match["layer"]}
        self.paths = {group: _path(group) for group in found}
        self.nodes = {_path(node.stored_as): node for node in graph.nodes} if graph is not None else {}
        if any(_COUNTING_TWICE in group for group in found):
            order = _in_order(self.paths.values())
            self.paths = {group: order[path] for group, path in self.paths.items()}
            weighted = {path: node for path, node in self.nodes.items() if _has_weights(path, node)}
            order = _in_order(weighted)
            self.nodes = {order[path]: node for path, node in weighted.items()}

    def place(self, name: str) -> tuple[Path, str]:
        """Return path and variable: the class says what the number of a variable stands for."""
        found = _VARS.fullmatch(name)
        if found is None or not found["layer"]:
            raise CheckpointFormatError(f"{name!r} belongs to no layer")
        path = self.paths[found["layer"]]
        kind, index = _split(path[-1])[0], int(found["index"])
        first = f"{found['layer']}vars/0"
        # A layer that is an attribute of a model in Python code has the attribute's name, which says no class.
        is_dense = kind not in _VARIABLES and first in self.file and len(self.file[first].shape) == 2
        leaves = _VARIABLES["dense"] if is_dense else _VARIABLES.get(kind, ())
        leaf = leaves[index] if index < len(leaves) else found["index"]
        own_name = self.file.text(LAYER_NAME, f"{found['layer']}vars")
        node = self.nodes.get(path)
        if node is not None and own_name not in (None, node.name):
            group = "/".join(path)
            raise CheckpointFormatError(f"{group!r} is {own_name!r} in the weights, {node.name!r} in the config")
        # The layers of a model that the config has as one are known by their own names.
        return node.path if node else (*path[:-1], own_name or path[-1]), leaf


def _path(group: str) -> Path:
    return tuple(part for part in group.split("/") if part and part not in _CONTAINERS)


def _split(name: str) -> tuple[str, int]:
    """Return class and number of a counted layer.

    >>> _split("depthwise_conv2d_12"), _split("conv2d")
    (('depthwise_conv2d', 12), ('conv2d', 0))
    """
    kind = _NUMBER.sub("", name)
    return kind, int(name[len(kind) + 1 :] or 0)


def _in_order(paths: Iterable[Path]) -> dict[Path, Path]:
    """Return each path as it is where layers are counted among these alone, of each class within its model.

    Keras 2.12 and 2.13 count a layer with weights twice, as `_layer_checkpoint_dependencies` has it under two names:
    keras/saving/saving_lib.py `_save_container_state`.
    """
    order: dict[Path, Path] = {(): ()}
    seen: Counter[Path] = Counter()
    every = {path[:end] for path in paths for end in range(1, len(path) + 1)}
    for path in sorted(every, key=lambda path: [_split(name) for name in path]):
        parent, kind = order[path[:-1]], _split(path[-1])[0]
        first = (*parent, kind)
        order[path] = (*parent, f"{kind}_{seen[first]}") if seen[first] else first
        seen[first] += 1
    return order


def _has_weights(path: Path, node: Node) -> bool:
    is_constant = node.kind == "Normalization" and node.config.get("mean") is not None
    return _split(path[-1])[0] in _VARIABLES and not is_constant


def _apart_from_network(layers: Layers) -> Layers:
    """Return counted layers, the last BatchNorm of a model under another name where no convolution can have it.

    Each convolution without bias has one, and the head's are made last.
    """
    renamed: dict[Path, Path] = {}
    for parent in {path[:-1] for path in layers}:
        kinds = {path: _split(path[-1])[0] for path in layers if path[:-1] == parent}
        norms = [path for path, kind in kinds.items() if kind == "batch_normalization"]
        convs = [path for path, kind in kinds.items() if kind in _CONVOLUTIONS and "bias" not in layers[path]]
        if convs and len(norms) == len(convs) + 1:
            last = max(norms, key=lambda path: _split(path[-1]))
            renamed[last] = (*parent, f"head_{last[-1]}")
    return {renamed.get(path, path): tensors for path, tensors in layers.items()}
