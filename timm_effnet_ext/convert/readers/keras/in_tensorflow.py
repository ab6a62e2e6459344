"""Keras models in TensorFlow's formats: SavedModels (Keras 2 `save`, Keras 3 `export`) and `save_weights` checkpoints.

Their bundles are read as any other; what makes them Keras' are the names of their variables. A SavedModel of Keras 2
has the model's config beside it, in `keras_metadata.pb`.
Spec: keras/protobuf/saved_metadata.proto, keras/src/saving/legacy/saved_model/json_utils.py (Keras 2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, TensorEntry, Variables
from timm_effnet_ext.convert.readers.keras.config import parse_config
from timm_effnet_ext.convert.readers.keras.layer_graph import LayerGraph
from timm_effnet_ext.convert.readers.keras.source import keras_checkpoint
from timm_effnet_ext.convert.readers.keras.weights import KerasWeights, Layers
from timm_effnet_ext.convert.readers.tensorflow.protowire import chunk, fields, text
from timm_effnet_ext.convert.readers.tensorflow.source import is_of_saved_model
from timm_effnet_ext.errors import CheckpointFormatError, located

METADATA_FILE = "keras_metadata.pb"
_ENDS = ("stem_conv/kernel", "top_conv/kernel")
_NODES, _NODE_PATH, _NODE_METADATA = 1, 3, 5
_MAX_METADATA = 256 << 20  # bytes; that of EfficientNetV2-L has some 4 MB


def has_keras_names(variables: Variables) -> bool:
    """Whether the variables of a bundle have the names of keras.applications."""
    return all(any(name.endswith(end) for name in variables.model) for end in _ENDS)


def from_bundle(path: Path, kind: str, files: tuple[Path, ...], variables: Variables) -> Checkpoint:
    """Return the checkpoint of a bundle with Keras' names; the first of its files is its index.

    Raises:
        CheckpointFormatError: The config beside the variables is damaged.
        NameMappingError: A model with layers that no timm EfficientNet has.
    """
    index = files[0]
    metadata = index.parent.parent / METADATA_FILE  # whichever part of the SavedModel the path names
    with located(metadata):
        config = _config(metadata) if is_of_saved_model(index.with_suffix("")) and metadata.is_file() else None
        graph = parse_config(config) if config is not None else None
    weights = KerasWeights(_layers(variables.model, graph), variables.slots, dict(variables.counters))
    return keras_checkpoint(path, f"Keras {kind}", (*files, *([metadata] if config else [])), graph, weights)


def _layers(model: Mapping[str, TensorEntry], graph: LayerGraph | None) -> Layers:
    """Return the variables by layer; TensorFlow's names have no word of nested models."""
    paths = {node.name: node.path for node in graph.nodes} if graph is not None else {}
    layers: Layers = {}
    for name, entry in model.items():
        layer, _, leaf = name.rpartition("/")
        layers.setdefault(paths.get(layer, (layer,)), {})[leaf] = entry
    return layers


def _config(path: Path) -> str | None:
    """Return the config of the whole model as JSON of lists, or None where it is Python code."""
    if path.stat().st_size > _MAX_METADATA:
        raise CheckpointFormatError(f"{path.stat().st_size} bytes, at most {_MAX_METADATA} are expected")
    for field, node in fields(path.read_bytes()):
        if field == _NODES:
            found = dict(fields(chunk(node)))
            if text(found.get(_NODE_PATH, b"")) == "root":
                return _plain_json(text(found.get(_NODE_METADATA, b"")))
    raise CheckpointFormatError("says nothing of the model itself")


def _plain_json(metadata: str) -> str | None:
    try:
        root = _lists(json.loads(metadata))
    except (ValueError, RecursionError) as err:
        raise CheckpointFormatError(f"the model's metadata is no usable JSON: {err}") from err
    return json.dumps(root) if isinstance(root, dict) and isinstance(root.get("config"), dict) else None


def _lists(value: Any) -> Any:
    """Return a value with Keras 2's tuples as lists."""
    if isinstance(value, dict):
        is_tuple = value.get("class_name") == "__tuple__"
        return _lists(value.get("items")) if is_tuple else {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list) else value
