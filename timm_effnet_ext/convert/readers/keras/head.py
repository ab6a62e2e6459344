"""What is behind the last convolution of a Keras graph, as one classifier, and the numerics where they are not ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from timm_effnet_ext.arch.rows import BN_EPS
from timm_effnet_ext.convert.checkpoint.affine import Affine, batch_norm, classifier
from timm_effnet_ext.convert.readers.keras.front import IDENTITY
from timm_effnet_ext.convert.readers.keras.layer_graph import HUB_LAYER, LayerGraph, Node, Path, is_symmetric
from timm_effnet_ext.convert.readers.keras.weights import MOVING, KerasWeights, Weights
from timm_effnet_ext.errors import CheckpointFormatError, NameMappingError

_ACTIVATIONS = {"swish": "silu", "silu": "silu", "relu": "relu", "relu6": "relu6", "gelu": "gelu"}
_FINAL = {None: None, "linear": None, "softmax": "softmax", "sigmoid": "sigmoid"}
_OPERATORS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}  # the first is a layer, too
_NONE = (None, "linear")
_NO_TRUNK = frozenset({"softmax", "sigmoid", "linear"})
_POOLS = {"GlobalAveragePooling2D": "avg", "GlobalMaxPooling2D": "max", "Mean": "avg"}


@dataclass(frozen=True)
class Head:
    """What follows the last convolution: `logits` is the last layer before the last activation.

    `dense` are the layers between that multiply and add alone, BatchNormalization and Dense.
    `features` is the network's own last layer. Where timm's EfficientNet has no such head, `problem` says why, and
    `logits` are the features.
    """

    features: Path
    logits: Path
    pool: str | None  # timm's name; None where the graph ends with a map
    activation: str | None
    dense: tuple[Node, ...] = ()
    problem: str | None = None


def head(graph: LayerGraph) -> Head:
    """Return the head, or why it is none that timm's EfficientNet has, nor folds into one.

    Raises:
        NameMappingError: The network is none of ours.
    """
    if (network := graph.network) is not None:
        behind = graph.nodes[graph.nodes.index(network) + 1 :]
        pool = "avg" if network.kind == HUB_LAYER else None  # a feature vector is what TensorFlow Hub's networks give
        return _folded(network.path, [node for node in behind if node.kind not in IDENTITY], graph.outputs, pool)
    last = max((i for i, node in enumerate(graph.nodes) if node.kind == "Conv2D"), default=-1)
    if last < 0:
        raise NameMappingError(f"no convolution among {len(graph.nodes)} layers: no EfficientNet")
    tail = [node for node in graph.nodes[last + 1 :] if node.kind not in IDENTITY]
    trunk, rest = tail[:2], tail[2:]
    if [node.kind for node in trunk] != ["BatchNormalization", "Activation"]:
        raise NameMappingError("the last convolution is not followed by BatchNormalization and Activation")
    return _folded(trunk[-1].path, rest, graph.outputs)


def _folded(end: Path, rest: list[Node], outputs: int, pool: str | None = None) -> Head:
    """Return the head that the layers behind the network's last one come to; `pool` says what was pooled there."""
    features, dense, activation = end, list[Node](), None
    while rest:
        node = rest[0]
        if node.kind in _POOLS and pool is None and not (dense and _POOLS[node.kind] == "max"):
            pool = _POOLS[node.kind]  # of averages the scale and offset of each channel are the same before and behind
        elif node.kind == "BatchNormalization" or (node.kind == "Dense" and pool and _is_linear(node, rest)):
            dense.append(node)
        elif node.kind != "Flatten" or pool is None:
            break
        end, rest = node.path, rest[1:]
    has_classifier = any(node.kind == "Dense" for node in dense)
    if has_classifier:
        activation, rest = _last_activation(dense[-1], rest)
    if rest or outputs > 1 or (dense and not has_classifier):
        others = [f"layer {node.name!r} ({node.kind}) stands" for node in (rest or dense)[:1]]
        what = f"{outputs} outputs stand" if outputs > 1 else others[0]
        problem = (
            f"{what} in the head; timm's EfficientNet has pooling and one Dense layer there, into which "
            "BatchNormalization can be folded. --headless leaves the head out"
        )
        return Head(features, features, None, None, problem=problem)
    return Head(features, end, pool, activation, tuple(dense))


def _is_linear(node: Node, rest: list[Node]) -> bool:
    """Whether a Dense layer has no activation of its own, or has it as the last one of all."""
    return node.config.get("activation") in _NONE or len(rest) == 1


def _last_activation(last: Node, rest: list[Node]) -> tuple[str | None, list[Node]]:
    """Return the activation of the logits, which the last layer has or which follows it, and what is left."""
    activation = _final(last) if last.kind == "Dense" else None
    if activation is None and rest and rest[0].kind in ("Activation", *_OPERATORS):
        return _OPERATORS.get(rest[0].kind) or _final(rest[0]), rest[1:]
    return activation, rest


def _final(node: Node) -> str | None:
    setting = node.config.get("activation")
    if not isinstance(setting, str | None) or setting not in _FINAL:
        raise NameMappingError(f"layer {node.name!r} ends with {setting!r}, expected softmax, sigmoid or none")
    return _FINAL[setting]


def with_one_classifier(weights: KerasWeights, dense: Sequence[Node]) -> KerasWeights:
    """Return the weights with one dense layer in place of `dense`, Dense and BatchNormalization layers in a row.

    Raises:
        CheckpointFormatError: The file has not the variables that one of the layers must have.
    """
    own = [(node, weights.layers.get(node.path, {})) for node in dense]
    if not own or (len(own) == 1 and "bias" in own[0][1]):
        return weights
    for node, tensors in own:
        _check(node, tensors)
    kernels = [(node.path, tensors["kernel"]) for node, tensors in own if node.kind == "Dense"]
    (_, first), (path_of_last, last) = kernels[0], kernels[-1]
    layers = [partial(_affine, node, tensors) for node, tensors in own]
    kept = {path: tensors for path, tensors in weights.layers.items() if path not in {node.path for node in dense}}
    folded = {f"{'/'.join(node.path)}/{leaf}": entry for node, tensors in own for leaf, entry in tensors.items()}
    one = classifier(first, last.shape[1], layers)
    return replace(weights, layers={**kept, path_of_last: one}, folded=folded)


def _check(node: Node, tensors: Weights) -> None:
    """Raise unless a layer has its variables, of shapes that a layer can have."""
    needed = ("kernel",) if node.kind == "Dense" else MOVING
    ranks = {len(tensors[leaf].shape) for leaf in needed if leaf in tensors}
    if ranks != {2 if node.kind == "Dense" else 1} or not set(needed) <= tensors.keys():
        raise CheckpointFormatError(f"layer {node.name!r} has no usable {' and '.join(needed)} in the file")


def _affine(node: Node, tensors: Weights) -> Affine:
    """Return what a layer does, from its weights."""
    read = {leaf: entry.read().astype(np.float64) for leaf, entry in tensors.items()}
    if node.kind == "Dense":
        return read["kernel"], read.get("bias", np.zeros(1))
    ones = np.ones_like(read["moving_mean"])
    gamma, beta = read.get("gamma", ones), read.get("beta", 0 * ones)
    return batch_norm(read["moving_mean"], read["moving_variance"], gamma, beta, eps=float(node.config["epsilon"]))


def model_args(graph: LayerGraph, pool: str | None) -> dict[str, Any]:
    """Return the arguments with which our model computes what the graph does.

    Raises:
        NameMappingError: The layers differ among each other, so no argument says it.
    """
    network = graph.network
    if network is not None and network.kind == HUB_LAYER:
        return {"global_pool": pool} if pool == "max" else {}
    if network is not None:
        check_backbone(network.config)
        eps, acts = {network.config.get("batch_norm_epsilon")}, {str(network.config.get("activation"))}
    else:
        eps = {node.config.get("epsilon") for node in graph.nodes if node.kind == "BatchNormalization"}
        # An activation that is no name is Python code or its settings.
        acts = {str(node.config.get("activation")) for node in graph.nodes if node.kind == "Activation"} - _NO_TRUNK
    names = {_ACTIVATIONS.get(act) for act in acts}
    args: dict[str, Any] = {}
    if len(eps) != 1 or not isinstance(eps_value := eps.pop(), float):
        raise NameMappingError(f"BatchNormalization layers with different epsilon: {sorted(map(str, eps))}")
    if len(names) != 1 or None in names:
        raise NameMappingError(f"activations {sorted(acts)}, supported is one of {set(_ACTIVATIONS)}")
    if not math.isclose(eps_value, BN_EPS, rel_tol=1e-6):
        args["bn_eps"] = eps_value
    args["act_layer"] = names.pop()
    if pool == "max":
        args["global_pool"] = pool
    if network is not None or is_symmetric(graph):
        args["pad_type"] = ""
    return args


def check_backbone(config: Mapping[str, Any]) -> None:
    """Raise unless timm has a model with the blocks and the padding of a backbone.

    Source: keras-team/keras-hub keras_hub/src/models/efficientnet/efficientnet_backbone.py.

    Raises:
        NameMappingError: It has not.
    """
    blocks = {str(kind) for kind in config["stackwise_block_types"]}
    is_padded = config.get("include_stem_padding") and config.get("stem_conv_padding") == "valid"
    if blocks != {"v1"} or not is_padded or config.get("projection_activation"):
        raise NameMappingError(
            f"a backbone of KerasHub with blocks {', '.join(sorted(blocks))}: supported are those of v1 with the "
            "padding of PyTorch throughout; others are padded in both ways within one network, as no model of timm's is"
        )
