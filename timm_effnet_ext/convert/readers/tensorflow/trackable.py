"""The object graph that TF2 stores beside the tensors -> the variables' own names.

A checkpoint of objects keys its tensors by attribute path, a SavedModel by number; what the code called them stands in
the string tensor `_CHECKPOINTABLE_OBJECT_GRAPH`.
Spec: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

from timm_effnet_ext.convert.readers.tensorflow.protowire import chunk, fields, text

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_NODES, _ATTRIBUTES, _FULL_NAME, _CHECKPOINT_KEY = 1, 2, 2, 3


def full_names(graph: bytes) -> dict[str, str]:
    """Return checkpoint key -> full name for every stored attribute of every object that has one."""
    names = {}
    for field, node in fields(graph):
        if field != _NODES:
            continue
        for part, attribute in fields(chunk(node)):
            if part == _ATTRIBUTES:
                found = dict(fields(chunk(attribute)))
                name = text(found.get(_FULL_NAME, b""))
                if name:
                    names[text(found.get(_CHECKPOINT_KEY, b""))] = name
    return names
