"""What the layers of a Keras graph compute beyond weights: the head, and the numerics where they are not ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from timm_effnet_ext.arch.rows import BN_EPS
from timm_effnet_ext.convert.readers.keras.front import IDENTITY
from timm_effnet_ext.convert.readers.keras.kerashub import check_backbone
from timm_effnet_ext.convert.readers.keras.layer_graph import HUB_LAYER, INPUT, LayerGraph, Node, Path
from timm_effnet_ext.errors import NameMappingError

_ACTIVATIONS = {"swish": "silu", "silu": "silu", "relu": "relu", "relu6": "relu6", "gelu": "gelu"}
_FINAL = {None: None, "linear": None, "softmax": "softmax", "sigmoid": "sigmoid"}
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
    if activation is None and rest and rest[0].kind in ("Activation", "Softmax"):
        return ("softmax" if rest[0].kind == "Softmax" else _final(rest[0])), rest[1:]
    return activation, rest


def _final(node: Node) -> str | None:
    setting = node.config.get("activation")
    if not isinstance(setting, str | None) or setting not in _FINAL:
        raise NameMappingError(f"layer {node.name!r} ends with {setting!r}, expected softmax, sigmoid or none")
    return _FINAL[setting]


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
    if network is not None or _is_symmetric(graph):
        args["pad_type"] = ""
    return args


def _is_symmetric(graph: LayerGraph) -> bool:
    """Whether every convolution is padded by as much before as behind, as in PyTorch, whatever its stride.

    At a stride of 2 and odd sizes SAME is the same; at a stride of 1 no code writes that with a layer.
    """
    padded = {user.path: node.config["padding"] for node in graph.nodes if node.kind == "ZeroPadding2D"
              for user in graph.users[node.path]}  # fmt: skip
    kernels = {node.path: node.config["kernel_size"] for node in graph.nodes if "kernel_size" in node.config}
    return all(
        padded.get(path) == [[size // 2] * 2 for size in kernel] for path, kernel in kernels.items() if max(kernel) > 1
    )


def wrong_paddings(graph: LayerGraph, height: int, width: int) -> list[str]:
    """Return the padding layers that pad an image of this size otherwise than SAME does; none where all are PyTorch's.

    keras.applications pads v1 for the size that it builds a model for; without a size, for even ones:
    keras/src/applications/imagenet_utils.py `correct_pad`.
    """
    if _is_symmetric(graph):
        return []
    sizes: dict[Path, tuple[int, int]] = {INPUT: (height, width)}
    wrong = []
    for node in graph.nodes:
        size = sizes[node.inputs[0]]
        if node.kind == "ZeroPadding2D":
            users = graph.users[node.path]
            found = [tuple(pads) for pads in node.config["padding"]]
            if len(users) != 1 or found != [_same(n, user) for n, user in zip(size, users * 2, strict=True)]:
                wrong.append(node.name)
        if node.kind in ("Conv2D", "DepthwiseConv2D"):
            sizes[node.path] = tuple(-(-n // s) for n, s in zip(size, node.config["strides"], strict=True))
        else:  # a padding layer's size is what the convolution behind it sees before padding
            sizes[node.path] = size
    return wrong


def _same(size: int, node: Node) -> tuple[int, int]:
    """Return TensorFlow's SAME padding before and after, for the square kernels that EfficientNets have."""
    kernel, stride = node.config["kernel_size"][0], node.config["strides"][0]
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
