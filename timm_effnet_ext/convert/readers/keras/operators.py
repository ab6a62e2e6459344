"""Operators written between layers, such as `x / 127.5 - 1`: which they are, and what they are given.

Keras 3 makes a layer of each, of the operator's own class; Keras 2 makes one of class TFOpLambda, which has the name of
TensorFlow's function. Here they have the names of Keras 3.
Source: keras/src/ops/numpy.py (Keras 3), keras/src/layers/core/tf_op_layer.py (Keras 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_OF_TENSORFLOW = ("TFOpLambda", "SlicingOpLambda")
_FUNCTIONS = {
    "math.truediv": "TrueDivide", "math.divide": "Divide", "math.subtract": "Subtract", "math.multiply": "Multiply",
    "math.add": "Add", "__operators__.add": "Add", "nn.bias_add": "Add", "math.negative": "Negative", "cast": "Cast",
    "math.reduce_mean": "Mean",
}  # fmt: skip
_OPERANDS = ("x1", "y", "x2", "bias")  # what operators call them, where they are given by name
_CONSTANT = "_CONSTANT_VALUE"  # Keras 2: in place of a layer's name
_ARRAYS = ("__numpy__", "__tensor__")  # Keras 3


def kind_of(kind: str, config: Mapping[str, Any]) -> str:
    """Return the class of a layer; of a function of TensorFlow's that of the same operator in Keras 3.

    An .h5 has KerasHub's classes with the package's name, as it has all that are not Keras' own.
    """
    function, kind = config.get("function"), kind.removeprefix("keras_hub>")
    return _FUNCTIONS.get(str(function), f"{kind} {function}") if kind in _OF_TENSORFLOW else kind


def settings(inbound: Any) -> dict[str, Any]:
    """Return the settings with which a layer is called, by name."""
    found: dict[str, Any] = {}
    for item in inbound if isinstance(inbound, list) else ():
        given = item.get("kwargs", item) if isinstance(item, dict) else item
        found |= given if isinstance(given, dict) else settings(given)
    return found


class Taken(NamedTuple):
    """What another layer gives, by that layer's name."""

    layer: str


def operands(inbound: Any) -> Iterator[Any]:
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
        yield Taken(str(config["keras_history"][0]))
    elif kind in _ARRAYS:
        yield config["value"]
    else:
        yield from operands(inbound.get("args", []))
        yield from _named(inbound.get("kwargs"))


def _listed(inbound: list[Any]) -> Iterator[Any]:
    if len(inbound) >= 3 and isinstance(inbound[0], str) and isinstance(inbound[1], int):
        yield inbound[2] if inbound[0] == _CONSTANT else Taken(inbound[0])
        yield from _named(inbound[3] if len(inbound) > 3 else None)
    else:
        for item in inbound:
            yield from operands(item)


def _named(kwargs: Any) -> Iterator[Any]:
    for name in _OPERANDS if isinstance(kwargs, dict) else ():
        if name in kwargs:
            yield from operands(kwargs[name])


def _is_array(value: Any) -> bool:
    """Whether a value is a number or lists of numbers."""
    if isinstance(value, list):
        return all(map(_is_array, value))
    return isinstance(value, int | float) and not isinstance(value, bool)
