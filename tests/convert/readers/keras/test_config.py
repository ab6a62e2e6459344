"""config.py reads the graphs of Keras 2 and Keras 3, and refuses what is no chain of known layers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from timm_effnet_ext.convert.readers.keras.config import parse_config
from timm_effnet_ext.convert.readers.keras.layer_graph import INPUT, LayerGraph
from timm_effnet_ext.errors import CheckpointFormatError


def keras3(kind: str, name: str, *inputs: str, **config: Any) -> dict[str, Any]:
    tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": [n, 0, 0]}} for n in inputs]
    args = [tensors] if len(tensors) > 1 else tensors
    inbound = [{"args": args, "kwargs": {"training": False}}] if inputs else []
    return {"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": inbound}


def keras2(kind: str, name: str, *inputs: str, **config: Any) -> dict[str, Any]:
    inbound = [[[n, 0, 0, {}] for n in inputs]] if inputs else []
    return {"class_name": kind, "config": {"name": name, **config}, "name": name, "inbound_nodes": inbound}


def functional(layers: list[dict[str, Any]], end: str, *, wrap: bool = False) -> dict[str, Any]:
    ends = [["in", 0, 0]], [[end, 0, 0]]
    start, stop = ends if wrap else (ends[0][0], ends[1][0])
    config = {"name": "model", "layers": layers, "input_layers": start, "output_layers": stop}
    return {"class_name": "Functional", "config": config}


def parse(model: Any) -> LayerGraph:
    graph = parse_config(json.dumps(model))
    assert graph is not None
    return graph


@pytest.mark.parametrize("entry", [keras3, keras2])
def test_layers_and_what_they_take(entry: Any) -> None:
    inner = functional([entry("InputLayer", "in"), entry("Conv2D", "conv", "in")], "conv", wrap=True)["config"]
    del inner["name"]
    shape = {"batch_shape": [None, 32, 48, 3]}
    graph = parse(
        functional(
            [entry("InputLayer", "in", **shape), entry("Conv2D", "a", "in"), entry("Functional", "base", "a", **inner),
             entry("DepthwiseConv2D", "b", "base"), entry("Add", "sum", "base", "b")],
            "sum",
        )
    )  # fmt: skip
    assert [(node.path, node.inputs) for node in graph.nodes] == [
        (("a",), (INPUT,)), (("base", "conv"), (("a",),)), (("b",), (("base", "conv"),)),
        (("sum",), (("base", "conv"), ("b",))),
    ]  # fmt: skip
    assert [node.stored_as for node in graph.nodes] == [
        "layers/conv2d", "layers/functional/layers/conv2d", "layers/depthwise_conv2d", "layers/add"
    ]  # fmt: skip
    assert (graph.nodes[-1].path, graph.input_shape) == (("sum",), (32, 48, 3))


def test_layers_of_one_class_are_counted_within_their_model() -> None:
    layers = [keras3("Dense", name) for name in ("a", "b", "c")]
    inner = keras3("Sequential", "inner", layers=layers[:2])
    graph = parse({"class_name": "Sequential", "config": {"name": "m", "layers": [*layers[:2], inner, layers[2]]}})
    assert [node.stored_as for node in graph.nodes] == [
        "layers/dense", "layers/dense_1", "layers/sequential/layers/dense", "layers/sequential/layers/dense_1",
        "layers/dense_2",
    ]  # fmt: skip


def test_the_order_of_the_list_does_not_matter() -> None:
    layers = [keras3("InputLayer", "in"), keras3("Dense", "a", "in"), keras3("Dropout", "b", "a")]
    assert [node.name for node in parse(functional(layers[::-1], "b")).nodes] == ["a", "b"]


def test_a_model_in_python_code_has_no_graph() -> None:
    assert parse_config('{"class_name": "Mine", "config": {"classes": 5}}') is None


START = keras3("InputLayer", "in")


@pytest.mark.parametrize(
    ("model", "message"),
    [([], "not a layer's config"), ({"class_name": "A", "config": 7}, "not a layer's config"),
     (functional([START, keras3("Dense", "a", "b"), keras3("Dense", "b", "a")], "b"), "no input for 2 layers"),
     (functional([START, keras3("Dense", "a")], "a"), "no input for 1 layers of 'model': a"),
     (functional([START], "a"), "gives 'a', which is no layer of it"),
     (functional([START, keras3("Dense", "in", "in")], "in"), "two layers of one name"),
     (functional([START, {**keras2("Dense", "a", "in"), "inbound_nodes": [[["in", 0, 0, {}]]] * 2}], "a"),
      "layer 'a' is used 2 times"),
     ({"class_name": "Functional", "config": {"layers": [START], "input_layers": [["a", 0, 0], ["b", 0, 0]]}},
      "has 2 input_layers, expected 1"),
     ({"class_name": "Sequential", "config": {"layers": 5}}, "has no list of layers")],
)  # fmt: skip
def test_what_is_no_such_graph_is_refused(model: Any, message: str) -> None:
    with pytest.raises(CheckpointFormatError, match=message):
        parse(model)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"class_name": "A", "config": {"layers": ' + "[" * 900])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(CheckpointFormatError, match="no usable JSON"):
        parse_config(text)
