"""The JSON config of a Keras model -> its layers in order of computation, nested models dissolved.

Nothing in a config is executed: a class is a name here, and what its name does not stand for is an error elsewhere.
Source: `get_config` of keras/src/models/functional.py and sequential.py (Keras 3), keras/src/engine/functional.py
(Keras 2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from timm_effnet_ext.convert.readers.keras.kerashub import BACKBONE, as_layers
from timm_effnet_ext.convert.readers.keras.operators import Taken, kind_of, operands, settings
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_few
from timm_effnet_ext.files.hub_format import MAX_SIDE

Path = tuple[str, ...]
INPUT: Path = ()
"""What a layer takes that sees the model's input itself."""

HUB_LAYER = "KerasLayer"
OPAQUE = (BACKBONE, HUB_LAYER)
"""Layers that are whole networks: KerasHub's, and a SavedModel of TensorFlow Hub's."""

_MAX_LAYERS = 5_000  # L2, the largest architecture, has some 1,500
_WORD = re.compile(r"(.)([A-Z][a-z]+)")
_CAPITAL = re.compile(r"([a-z])([A-Z])")


@dataclass(frozen=True)
class Node:
    """One layer: names of the models around it and its own, class, settings, and the layers that it takes.

    `operands` are what it is given in its order, constants too; None stands for each of the `inputs`.
    """

    path: Path
    kind: str
    config: Mapping[str, Any] = field(repr=False)
    inputs: tuple[Path, ...]
    stored_as: str  # Keras 3's group in a weights file, e.g. "layers/functional/layers/conv2d_3"
    operands: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The layer's own name."""
        return self.path[-1]


@dataclass(frozen=True)
class LayerGraph:
    """The layers of a model; `input_shape` is (H, W, C) with None for what is free."""

    nodes: tuple[Node, ...]
    output: Path
    input_shape: tuple[int | None, ...]
    outputs: int = 1

    @cached_property
    def network(self) -> Node | None:
        """The layer that is the network, where its own layers are not in the config."""
        return next((node for node in self.nodes if node.kind in OPAQUE), None)

    @cached_property
    def users(self) -> Mapping[Path, list[Node]]:
        """The layers that take a layer's output."""
        users: dict[Path, list[Node]] = {INPUT: []}
        for node in self.nodes:
            users[node.path] = []
            for path in node.inputs:
                users[path].append(node)
        return users


@contextmanager
def sensible(setting: str = "a setting") -> Iterator[None]:
    """Turn what a setting of a wrong type, size or name raises into our error."""
    try:
        yield
    except EffNetExtError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, ArithmeticError) as err:
        raise CheckpointFormatError(f"{setting} makes no sense ({type(err).__name__}: {err})") from err


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
    with sensible():
        model = _Layer.of(as_layers(config, front))
    if "layers" not in model.config:
        return None
    builder = _Builder()
    with sensible():
        output = builder.model(model, (), "", INPUT)
    shape = builder.input_shape or _input_shape(config.get("build_config"))
    return LayerGraph(tuple(builder.nodes), output, tuple(shape[1:]) if shape else (None, None, None), builder.outputs)


@dataclass(frozen=True)
class _Layer:
    """One entry of a model's list of layers, checked to have what every entry has."""

    name: str
    kind: str
    config: Mapping[str, Any]
    inbound: list[Any]

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
        return cls(name, kind, config, inbound)


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
        counted = {layer.name: f"{stored_as}layers/{name}" for layer, name in _counted(layers)}
        if len(counted) != len(layers):
            raise CheckpointFormatError(f"model {model.name!r} has two layers of one name")
        for layer in layers:
            if layer.kind == "InputLayer" and not path:
                self.input_shape = _input_shape(layer.config)
        if "input_layers" in model.config:
            return self._functional(model, layers, counted, path, source)
        for layer in layers:  # Sequential
            if not path and self.input_shape is None:
                self.input_shape = _input_shape(layer.config) or _input_shape(model.config)
            source = self._apply(layer, counted, path, [source])
        return source

    def _functional(
        self, model: _Layer, layers: list[_Layer], counted: Mapping[str, str], path: Path, source: Path
    ) -> Path:
        start, end = self._end(model, "input_layers"), self._end(model, "output_layers", may_be_several=not path)
        sources = {layer.name: self._sources(layer) for layer in layers}
        given: dict[str, Path] = {}
        waiting = layers
        while waiting:  # once, as Keras lists layers in order of computation
            later = []
            for layer in waiting:
                if layer.name == start:
                    given[start] = self._apply(layer, counted, path, [source])
                elif sources[layer.name] and all(name in given for name in sources[layer.name]):
                    taken = [given[name] for name in sources[layer.name]]
                    given[layer.name] = self._apply(layer, counted, path, taken)
                else:
                    later.append(layer)
            if len(later) == len(waiting):
                names = first_few(layer.name for layer in later)
                raise CheckpointFormatError(f"no input for {len(later)} layers of {model.name!r}: {names}")
            waiting = later
        if end not in given:
            raise CheckpointFormatError(f"model {model.name!r} gives {end!r}, which is no layer of it")
        return given[end]

    def _apply(self, layer: _Layer, counted: Mapping[str, str], path: Path, sources: list[Path]) -> Path:
        """Add one layer, or all of a nested model; return what gives its output."""
        if layer.kind == "InputLayer":
            return sources[0]
        inner = (*path, layer.name)
        if "layers" in layer.config:
            if len(sources) != 1:
                raise CheckpointFormatError(f"model {layer.name!r} takes {len(sources)} inputs, expected 1")
            return self.model(layer, inner, f"{counted[layer.name]}/", sources[0])
        kind, config = kind_of(layer.kind, layer.config), {**layer.config, **settings(layer.inbound)}
        given = tuple(None if isinstance(value, Taken) else value for value in operands(layer.inbound))
        self.nodes.append(Node(inner, kind, config, tuple(sources), counted[layer.name], given))
        return inner

    def _end(self, model: _Layer, key: str, *, may_be_several: bool = False) -> str:
        """Return the name of a model's input or output, or of its first one: [name, 0, 0], or a list or object of such.

        The outermost model may have several outputs: what leaves its head out needs none of them.
        """
        found = model.config.get(key)
        if isinstance(found, list) and len(found) == 3 and isinstance(found[0], str):
            found = [found]
        found = [*found.values()] if isinstance(found, dict) else found
        names = [end[0] for end in found if isinstance(end, list) and end] if isinstance(found, list) else []
        if not names or not isinstance(names[0], str) or (len(names) > 1 and not may_be_several):
            raise CheckpointFormatError(f"model {model.name!r} has {len(names)} {key}, expected 1")
        if key == "output_layers" and may_be_several:
            self.outputs = len(names)
        return names[0]

    def _sources(self, layer: _Layer) -> list[str]:
        """Return the names of the layers that a layer takes."""
        if len(layer.inbound) > 1 and not isinstance(layer.inbound[0], str):
            raise CheckpointFormatError(f"layer {layer.name!r} is used {len(layer.inbound)} times, expected 1")
        return [given.layer for given in operands(layer.inbound) if isinstance(given, Taken)]


def _counted(layers: list[_Layer]) -> Iterator[tuple[_Layer, str]]:
    """Yield each layer with Keras 3's name for it in a weights file: class and counter.

    Source: keras/src/saving/saving_lib.py `_save_container_state`, keras/src/utils/naming.py `to_snake_case`.
    """
    seen: dict[str, int] = {}
    for layer in layers:
        snake = _CAPITAL.sub(r"\1_\2", _WORD.sub(r"\1_\2", layer.kind)).lower()
        count = seen.get(snake, 0)
        seen[snake] = count + 1
        yield layer, f"{snake}_{count}" if count else snake


def is_side(size: Any) -> bool:
    """Whether a setting can be the height or width of an image, in pixels."""
    return isinstance(size, int) and 0 < size <= MAX_SIDE


def _input_shape(config: Any) -> list[Any] | None:
    """Return [batch, H, W, C] where a config has it."""
    for key in ("batch_shape", "batch_input_shape", "build_input_shape", "input_shape"):
        shape = config.get(key) if isinstance(config, dict) else None
        if isinstance(shape, list) and len(shape) == 4 and all(n is None or is_side(n) for n in shape[1:]):
            return shape
    return None
