"""The layers of a Keras model in order of computation, who takes what of whom, and how they pad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError
from timm_effnet_ext.files.hub_format import MAX_SIDE

Path = tuple[str, ...]
INPUT: Path = ()
"""What a layer takes that sees the model's input itself."""

BACKBONE, HUB_LAYER = "EfficientNetBackbone", "KerasLayer"
OPAQUE = (BACKBONE, HUB_LAYER)
"""Layers that are whole networks: KerasHub's, and a SavedModel of TensorFlow Hub's."""


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


def is_side(size: Any) -> bool:
    """Whether a setting can be the height or width of an image, in pixels."""
    return isinstance(size, int) and 0 < size <= MAX_SIDE


def is_symmetric(graph: LayerGraph) -> bool:
    """Whether every convolution is padded by as much before as behind, as in PyTorch, whatever its stride.

    At a stride of 2 and odd sizes SAME is the same; at a stride of 1 no code writes that with a layer.
    """
    padded = {user.path: node.config["padding"] for node in graph.nodes if node.kind == "ZeroPadding2D"
              for user in graph.users[node.path]}  # fmt: skip
    kernels = {node.path: node.config["kernel_size"] for node in graph.nodes if "kernel_size" in node.config}
    return all(
        padded.get(path) == [[size // 2] * 2 for size in kernel] for path, kernel in kernels.items() if max(kernel) > 1
    )


@sensible("the graph: a setting")
def wrong_paddings(graph: LayerGraph, height: int, width: int) -> list[str]:
    """Return the padding layers that pad an image of this size otherwise than SAME does; none where all are PyTorch's.

    keras.applications pads v1 for the size that it builds a model for; without a size, for even ones:
    keras/src/applications/imagenet_utils.py `correct_pad`.
    """
    if is_symmetric(graph):
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
