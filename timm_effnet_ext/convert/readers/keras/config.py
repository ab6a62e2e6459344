"""The JSON config of a Keras model -> its layers in order of computation, nested models dissolved.

Nothing in a config is executed: a class is a name here, and what its name does not stand for is an error elsewhere.
Operators between layers, such as `x / 127.5 - 1`, are layers of Keras 3's classes, also where Keras 2 has functions of
TensorFlow's. KerasHub has one record for a task, and says no layers of a backbone.
Source: keras/src/models/{functional,sequential}.py, keras/src/ops/numpy.py (Keras 3), keras/src/engine/functional.py,
keras/src/layers/core/tf_op_layer.py (Keras 2), keras-team/keras-hub keras_hub/src/models/image_classifier.py and
layers/preprocessing/image_converter.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from timm_effnet_ext.convert.readers.keras.layer_graph import BACKBONE, INPUT, LayerGraph, Node, Path, is_side, sensible
from timm_effnet_ext.errors import CheckpointFormatError, first_few

_MAX_LAYERS = 5_000  # L2, the largest architecture, has some 1,500
_WORD = re.compile(r"(.)([A-Z][a-z]+)")
_CAPITAL = re.compile(r"([a-z])([A-Z])")
_OF_TENSORFLOW = ("TFOpLambda", "SlicingOpLambda")
_FUNCTIONS = {
    "math.truediv": "TrueDivide", "math.divide": "Divide", "math.subtract": "Subtract", "math.multiply": "Multiply",
    "math.add": "Add", "__operators__.add": "Add", "nn.bias_add": "Add", "math.negative": "Negative", "cast": "Cast",
    "math.reduce_mean": "Mean", "nn.softmax": "Softmax", "math.sigmoid": "Sigmoid",
}  # fmt: skip
_OPERANDS = ("x1", "y", "x2", "bias")  # what operators call them, where they are given by name
_CONSTANT = "_CONSTANT_VALUE"  # Keras 2: in place of a layer's name
_ARRAYS = ("__numpy__", "__tensor__")  # Keras 3

_POOLERS = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}
_RESIZING = ("interpolation", "antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio", "fill_mode", "fill_value")


def parse_config(text: str, preprocessor: str | None = None) -> LayerGraph | None:
    """Return the graph of a model's config, or None for a model that is Python code and says no layers.

    `preprocessor` is the config of what KerasHub does to images, where that is a file of its own.

    Raises:
        CheckpointFormatError: No model's config, or a graph with several inputs, outputs or uses of one layer.
    """
    try:
        config, front = json.loads(text), json.loads(preprocessor or "{}")
    except (ValueError, RecursionError) as err:
        raise CheckpointFormatError(f"the model config is no usable JSON: {err}") from err
    builder = _Builder()
    with sensible():
        model = _Layer.of(_as_layers(config, front))
        if "layers" not in model.config:
            return None
        builder.model(model, (), "", INPUT)
    shape = builder.input_shape or _input_shape(config.get("build_config")) or [None] * 4
    return LayerGraph(tuple(builder.nodes), tuple(shape[1:]), builder.outputs)


@dataclass(frozen=True)
class _Layer:
    """One entry of a model's list of layers, checked to have what every entry has; `sources` are names of others."""

    name: str
    kind: str
    config: Mapping[str, Any]
    sources: list[str]
    operands: tuple[Any, ...]

    @classmethod
    def of(cls, entry: Any) -> _Layer:
        config = entry.get("config") if isinstance(entry, dict) else None
        kind = entry.get("class_name") if isinstance(entry, dict) else None
        if not isinstance(config, dict) or not isinstance(kind, str):
            raise CheckpointFormatError(f"not a layer's config: {str(entry)[:80]}")
        name = config.get("name", entry.get("name", kind))
        inbound = entry.get("inbound_nodes", [])
        if not isinstance(name, str) or not isinstance(inbound, list):
            raise CheckpointFormatError(f"layer {name!r} has no usable name or inputs")
        if len(inbound) > 1 and not isinstance(inbound[0], str):
            raise CheckpointFormatError(f"layer {name!r} is used {len(inbound)} times, expected 1")
        given = list(_operands(inbound))
        constants = tuple(None if isinstance(value, _Taken) else value for value in given)
        return cls(name, _kind(kind, config), {**config, **_settings(inbound)}, _names(given), constants)


class _Builder:
    """Collects nodes while it goes through nested models."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.input_shape: list[Any] | None = None
        self.outputs = 1

    def model(self, model: _Layer, path: Path, stored_as: str, source: Path) -> Path:
        """Add the layers of a model that is applied to `source`; return what it gives."""
        entries = model.config.get("layers")
        if not isinstance(entries, list):
            raise CheckpointFormatError(f"model {model.name!r} has no list of layers")
        if len(entries) + len(self.nodes) > _MAX_LAYERS:
            raise CheckpointFormatError(f"more than {_MAX_LAYERS} layers")
        layers = [_Layer.of(entry) for entry in entries]
        stored = _stored_names(layers, stored_as)
        if len(stored) != len(layers):
            raise CheckpointFormatError(f"model {model.name!r} has two layers of one name")
        for layer in layers:
            if layer.kind == "InputLayer" and not path:
                self.input_shape = _input_shape(layer.config)
        if "input_layers" in model.config:
            return self._functional(model, layers, stored, path, source)
        for layer in layers:  # Sequential
            if not path and self.input_shape is None:
                self.input_shape = _input_shape(layer.config) or _input_shape(model.config)
            source = self._apply(layer, stored, path, [source])
        return source

    def _functional(
        self, model: _Layer, layers: list[_Layer], stored: Mapping[str, str], path: Path, source: Path
    ) -> Path:
        (start,) = _ends(model, "input_layers")
        end, *others = _ends(model, "output_layers", may_be_several=not path)
        self.outputs += len(others)  # of the outermost model, whose head can be left out with all of them
        given: dict[str, Path] = {}
        waiting = layers
        while waiting:  # once, as Keras lists layers in order of computation
            later = []
            for layer in waiting:
                if layer.name == start:
                    given[start] = self._apply(layer, stored, path, [source])
                elif layer.sources and all(name in given for name in layer.sources):
                    given[layer.name] = self._apply(layer, stored, path, [given[name] for name in layer.sources])
                else:
                    later.append(layer)
            if len(later) == len(waiting):
                names = first_few(layer.name for layer in later)
                raise CheckpointFormatError(f"no input for {len(later)} layers of {model.name!r}: {names}")
            waiting = later
        if end not in given:
            raise CheckpointFormatError(f"model {model.name!r} gives {end!r}, which is no layer of it")
        return given[end]

    def _apply(self, layer: _Layer, stored: Mapping[str, str], path: Path, sources: list[Path]) -> Path:
        """Add one layer, or all of a nested model; return what gives its output."""
        if layer.kind == "InputLayer":
            return sources[0]
        inner = (*path, layer.name)
        if "layers" in layer.config:
            if len(sources) != 1:
                raise CheckpointFormatError(f"model {layer.name!r} takes {len(sources)} inputs, expected 1")
            return self.model(layer, inner, f"{stored[layer.name]}/", sources[0])
        self.nodes.append(Node(inner, layer.kind, layer.config, tuple(sources), stored[layer.name], layer.operands))
        return inner


def _ends(model: _Layer, key: str, *, may_be_several: bool = False) -> list[str]:
    """Return the names of a model's inputs or outputs: of [name, 0, 0], or of a list or object of such."""
    found = model.config.get(key)
    names = _names(_operands([*found.values()] if isinstance(found, dict) else found))
    if not names or (len(names) > 1 and not may_be_several):
        raise CheckpointFormatError(f"model {model.name!r} has {len(names)} {key}, expected 1")
    return names


def _stored_names(layers: list[_Layer], model: str) -> dict[str, str]:
    """Return what Keras 3 calls layers in a weights file, class and counter, below what it calls their model.

    Source: keras/src/saving/saving_lib.py `_save_container_state`, keras/src/utils/naming.py `to_snake_case`.
    """
    names = {}
    seen: Counter[str] = Counter()
    for layer in layers:
        kind = _CAPITAL.sub(r"\1_\2", _WORD.sub(r"\1_\2", layer.kind)).lower()
        names[layer.name] = f"{model}layers/{kind}_{seen[kind]}" if seen[kind] else f"{model}layers/{kind}"
        seen[kind] += 1
    return names


def _input_shape(config: Any) -> list[Any] | None:
    """Return [batch, H, W, C] where a config has it."""
    for key in ("batch_shape", "batch_input_shape", "build_input_shape", "input_shape"):
        shape = config.get(key) if isinstance(config, dict) else None
        if isinstance(shape, list) and len(shape) == 4 and all(n is None or is_side(n) for n in shape[1:]):
            return shape
    return None


def _kind(kind: str, config: Mapping[str, Any]) -> str:
    """Return the class of a layer; of a function of TensorFlow's that of the same operator in Keras 3.

    An .h5 has KerasHub's classes with the package's name, as it has all that are not Keras' own.
    """
    function, kind = config.get("function"), kind.removeprefix("keras_hub>")
    return _FUNCTIONS.get(str(function), f"{kind} {function}") if kind in _OF_TENSORFLOW else kind


def _settings(inbound: Any) -> dict[str, Any]:
    """Return the settings with which a layer is called, by name."""
    found: dict[str, Any] = {}
    for item in inbound if isinstance(inbound, list) else ():
        given = item.get("kwargs", item) if isinstance(item, dict) else item
        found |= given if isinstance(given, dict) else _settings(given)
    return found


class _Taken(NamedTuple):
    """What another layer gives, by that layer's name."""

    layer: str


def _names(given: Iterable[Any]) -> list[str]:
    return [value.layer for value in given if isinstance(value, _Taken)]


def _operands(inbound: Any) -> Iterator[Any]:
    """Yield what a layer is given in its order: what it takes from others, and constants.

    These are [name, 0, 0, {…}] in Keras 2, and `__keras_tensor__` in Keras 3.
    """
    if isinstance(inbound, dict):
        yield from _recorded(inbound)
    elif isinstance(inbound, list) and not _is_array(inbound):
        yield from _listed(inbound)
    elif _is_array(inbound) and inbound != []:
        yield inbound


def _recorded(inbound: dict[str, Any]) -> Iterator[Any]:
    kind, config = inbound.get("class_name"), inbound.get("config") or {}
    if kind == "__keras_tensor__":
        yield _Taken(str(config["keras_history"][0]))
    elif kind in _ARRAYS:
        yield config["value"]
    else:
        yield from _operands(inbound.get("args", []))
        yield from _named(inbound.get("kwargs"))


def _listed(inbound: list[Any]) -> Iterator[Any]:
    if len(inbound) >= 3 and isinstance(inbound[0], str) and isinstance(inbound[1], int):
        yield inbound[2] if inbound[0] == _CONSTANT else _Taken(inbound[0])
        yield from _named(inbound[3] if len(inbound) > 3 else None)
    else:
        for item in inbound:
            yield from _operands(item)


def _named(kwargs: Any) -> Iterator[Any]:
    for name in _OPERANDS if isinstance(kwargs, dict) else ():
        if name in kwargs:
            yield from _operands(kwargs[name])


def _is_array(value: Any) -> bool:
    """Whether a value is a number or lists of numbers."""
    if isinstance(value, list):
        return all(map(_is_array, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_layers(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a task or backbone of KerasHub as the Sequential model that it is; all other configs as they are.

    `preprocessor` is the one that stands in a file of its own.
    """
    own = config.get("config") if isinstance(config, dict) else None
    if not isinstance(own, dict):
        return config
    backbone = own.get("backbone")
    if config.get("class_name") == BACKBONE:
        layers = [_layer(BACKBONE, **own)]
    elif isinstance(backbone, dict) and backbone.get("class_name") == BACKBONE:
        pooler = _layer(_POOLERS.get(str(own.get("pooling")), "pooling"), name="pooler")
        dense = _layer("Dense", name="predictions", activation=own.get("activation"), use_bias=True)
        layers = [_layer(BACKBONE, **backbone["config"]), pooler, dense]
    else:
        return config
    front = _front(own.get("preprocessor") or preprocessor or {})
    return {"class_name": "Sequential", "config": {"name": "task", "layers": [*front, *layers]}}


def _front(preprocessor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what an image converter does, as layers; it may stand in a preprocessor."""
    found = preprocessor.get("config") or {}
    converter = (found.get("image_converter") or {}).get("config") or found
    front = []
    if isinstance(size := converter.get("image_size"), list) and len(size) == 2:
        how = {name: converter[name] for name in _RESIZING if name in converter}
        front.append(_layer("Resizing", name="image_size", height=size[0], width=size[1], **how))
    scale, offset = converter.get("scale"), converter.get("offset")
    if scale is not None or offset is not None:
        scale, offset = 1.0 if scale is None else scale, 0.0 if offset is None else offset
        front.append(_layer("Rescaling", name="image_converter", scale=scale, offset=offset))
    return front


def _layer(kind: str, /, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": kind.lower(), **config}}
