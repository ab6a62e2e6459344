"""What each tensor of a bundle is: a model's variable, its EMA twin, an optimizer slot or a counter.

A checkpoint of objects keys its tensors by attribute path, a SavedModel by number; what the code called them stands in
an object graph beside the tensors.
Spec: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry, Variables
from timm_effnet_ext.convert.readers.tensorflow.bundle import Bundle
from timm_effnet_ext.convert.readers.tensorflow.protowire import chunk, fields, text
from timm_effnet_ext.convert.readers.tensorflow.source import is_of_saved_model
from timm_effnet_ext.errors import CheckpointFormatError, NameMappingError, first_few, located

EMA_SUFFIX = "/ExponentialMovingAverage"
# Name-based: an optimizer's slot stands below its variable, under the optimizer's name, numbered from the second on.
SLOT = re.compile(
    r"(RMSProp|Momentum|Adam|AdamW|AdamWeightDecay|Adagrad|Adadelta|Ftrl|LARS|LAMB|SGD)(Optimizer)?(_\d+)?|adam_[mv]"
)
COUNTER = re.compile(
    r"(global_step|save_counter|beta[12]_power|(current_)?loss_scale|good_steps|seed_generator_state|StateVar)(_\d+)?"
)
# Object-based: what one part of an attribute path says. Keras keeps its metrics under `keras_api/metrics`.
SLOT_PART = re.compile(r"\.OPTIMIZER_SLOT|(\w+_|_)?optimizer")
METRIC_PART = "metrics"
COUNTER_LEAVES = ("save_counter", "global_step", "step", "epoch")
GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_NODES, _ATTRIBUTES, _FULL_NAME, _CHECKPOINT_KEY = 1, 2, 2, 3
_ATTRIBUTE = "/.ATTRIBUTES/"  # of other attributes than VARIABLE_VALUE, none is a number


def variables(bundle: Bundle) -> Variables:
    """Return the tensors of a bundle sorted by what they are, under canonical names.

    A name-based checkpoint says them itself; an object graph and a SavedModel have them in the graph. Where that does
    not name all of the model's variables apart, they keep the attribute paths.
    """
    return _object_based(bundle) if GRAPH_KEY in bundle else _name_based(bundle)


def format_of(bundle: Bundle) -> str:
    """Return what people call such a checkpoint."""
    if GRAPH_KEY not in bundle:
        return "tensor bundle, names"
    return "SavedModel" if is_of_saved_model(bundle.prefix) else "tensor bundle, object graph"


def _name_based(bundle: Bundle) -> Variables:
    """Sort by the declared patterns; twins and slots need the variable that they belong to."""
    out = Variables()
    for name in bundle:
        variable, _, leaf = name.rpartition("/")
        if name.endswith(EMA_SUFFIX):
            out.ema[variable] = bundle[name]
        elif variable in bundle and SLOT.fullmatch(leaf):
            out.slots[name] = bundle[name]
        elif COUNTER.fullmatch(leaf):
            out.counters[name] = bundle[name]
        else:
            out.model[name] = bundle[name]
    orphans = out.ema.keys() - out.model.keys()
    # A checkpoint of EMA weights alone has no variables beside them.
    if orphans and out.model:
        raise NameMappingError(f"{len(orphans)} EMA twins of variables that are not there: {first_few(orphans)}")
    return out if out.model or not out.ema else Variables(dict(out.ema), out.ema, {}, out.counters)


def _object_based(bundle: Bundle) -> Variables:
    """Sort by attribute paths, then take the names from the graph."""
    entry = bundle[GRAPH_KEY]
    with located("object graph"):
        if entry.dtype != "string" or entry.shape:
            raise CheckpointFormatError(f"is {entry.dtype} of shape {entry.shape}, expected one string")
        names = full_names(bytes(entry.read()[()]))
    slots, counters, metadata, keys = {}, {}, [], []
    for key in bundle:
        path, name = key.removesuffix(VALUE_SUFFIX), names.get(key, "")
        if _ATTRIBUTE in path or key == GRAPH_KEY:
            metadata.append(key)
        elif any(map(SLOT_PART.fullmatch, path.split("/"))):
            slots[path] = bundle[key]
        elif label := _counter(path, name):
            counters[label] = bundle[key]
        else:
            keys.append(key)
    model, copies = _named(bundle, keys, names)
    return Variables(model, {}, slots, counters, (*metadata, *copies))


def _counter(path: str, name: str) -> str | None:
    """Return what a counter or a metric's variable is called, by its attribute path or its name; None for others."""
    *parts, leaf = path.split("/")
    if METRIC_PART in (*parts, leaf) or leaf in COUNTER_LEAVES:
        return path
    return name if COUNTER.fullmatch(name.rpartition("/")[2]) else None


def _named(bundle: Bundle, keys: list[str], names: Mapping[str, str]) -> tuple[dict[str, TensorEntry], list[str]]:
    """Return name -> entry, and the keys of second copies, which Keras 3 exports of each variable."""
    model: dict[str, TensorEntry] = {}
    copies = []
    for key in keys:
        name = names.get(key, "")
        if name in model and bundle.is_copy(model[name].name, key):
            copies.append(key)
        elif not name or name in model:  # the names do not tell the variables apart
            return {key.removesuffix(VALUE_SUFFIX): bundle[key] for key in keys}, []
        else:
            model[name] = bundle[key]
    return model, copies


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
