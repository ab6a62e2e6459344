"""The layers between pooling and outputs of a Keras model -> one classifier, where they multiply and add alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from timm_effnet_ext.convert.checkpoint.affine import Affine, batch_norm, classifier
from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry
from timm_effnet_ext.convert.readers.keras.layer_graph import Node
from timm_effnet_ext.convert.readers.keras.weights import MOVING, KerasWeights
from timm_effnet_ext.errors import CheckpointFormatError

Weights = Mapping[str, TensorEntry]


def with_one_classifier(weights: KerasWeights, dense: Sequence[Node]) -> KerasWeights:
    """Return the weights with one dense layer in place of `dense`, Dense and BatchNormalization layers in a row.

    Raises:
        CheckpointFormatError: The file has not the variables that one of the layers must have.
    """
    own = [weights.layers.get(node.path, {}) for node in dense]
    if not dense or (len(dense) == 1 and "bias" in own[0]):
        return weights
    for node, tensors in zip(dense, own, strict=True):
        _check(node, tensors)
    kernels = [tensors["kernel"] for tensors in own if "kernel" in tensors]
    layers = [partial(_affine, node, tensors) for node, tensors in zip(dense, own, strict=True)]
    paths = [node.path for node in dense]
    kept = {path: tensors for path, tensors in weights.layers.items() if path not in paths}
    last = next(node.path for node in reversed(dense) if node.kind == "Dense")
    folded = {f"{'/'.join(path)}/{leaf}": entry for path, tensors in zip(paths, own, strict=True)
              for leaf, entry in tensors.items()}  # fmt: skip
    one = dict(classifier(kernels[0], kernels[-1].shape[1], layers))
    return replace(weights, layers={**kept, last: one}, folded=folded)


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
