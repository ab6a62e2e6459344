"""What a Keras model does to an image before its first convolution, as timm's mean and std.

Source: keras/src/layers/preprocessing (Rescaling, Normalization and the image layers, which at inference do nothing
but for Resizing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from timm_effnet_ext.convert.checkpoint.affine import Affine, join
from timm_effnet_ext.convert.dialects.preparation import IMAGENET
from timm_effnet_ext.convert.readers.keras.layer_graph import INPUT, OPAQUE, LayerGraph, Node, Path, is_side
from timm_effnet_ext.convert.readers.keras.weights import Weights
from timm_effnet_ext.errors import CheckpointFormatError, NameMappingError

# Layers that do nothing at inference: what drops, and Keras' random image layers (RandomCrop is none of them).
IDENTITY = frozenset({
    "Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization",
    "Identity", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomHeight", "RandomWidth",
    "RandomContrast", "RandomBrightness", "RandomShear", "RandomHue", "RandomSaturation", "RandomSharpness",
    "RandomColorJitter", "RandomColorDegeneration", "RandomGrayscale", "RandomInvert", "RandomPosterization",
    "RandomGaussianBlur", "RandomErasing", "RandomElasticTransform", "RandomPerspective", "RandAugment", "AugMix",
    "MixUp", "CutMix",
})  # fmt: skip
_NETWORK = ("ZeroPadding2D", "Conv2D", *OPAQUE)
_EPSILON = 1e-7  # keras.config.epsilon(): the smallest standard deviation of a Normalization layer
_WHITE = 255.0
_MAX_CHANNELS = 64

# How `image_dataset_from_directory` brings images to a model's size with its defaults interpolation="bilinear" and
# crop_to_aspect_ratio=False: keras/src/utils/image_dataset_utils.py.
RESIZING: Mapping[str, Any] = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}

# Keras' Resizing -> timm/data/transforms_factory.py `transforms_imagenet_eval`, and Pillow's names of filters.
_INTERPOLATIONS = {
    "bilinear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "area": "box",
    "lanczos3": "lanczos", "lanczos5": "lanczos",
}  # fmt: skip
_AS_TIMMS = ("nearest", "area")  # whatever `antialias` says: the first never smooths, the second always does
_CROP_MODES = {"crop_to_aspect_ratio": "center", "pad_to_aspect_ratio": "border"}

IMAGENET_MEAN, IMAGENET_STD = map(np.array, IMAGENET)
_TO_UNIT: Affine = np.array([1 / _WHITE]), np.zeros(1)
_V2_LARGE: Affine = np.array([1 / 128]), -np.ones(1)  # S, M and L: keras/src/applications/efficientnet_v2.py


def rescaling(node: Node, weights: Weights) -> Affine:
    """Return what a Rescaling layer does, scale and offset for all channels or for each."""
    return setting(node, "scale"), setting(node, "offset")


def operator(node: Node, weights: Weights) -> Affine:
    """Return what an operator does with a constant, e.g. the subtraction in `x / 127.5 - 1`.

    Raises:
        NameMappingError: It takes two images, divides by one, or rounds it.
    """
    constants = [numbers(node, "a constant", value) for value in node.operands if value is not None]
    if problem := _no_scaling(node, len(constants)):
        raise NameMappingError(
            f"layer {node.name!r} ({node.kind}) stands before the network and {problem}. Save the model without it"
        )
    (constant,) = constants or [np.ones(1)]
    is_first = node.operands[0] is None  # the image, as in x - 1; else 1 - x
    with np.errstate(divide="ignore"):  # by zero, which `mean_std` refuses
        return {
            "Add": (np.ones(1), constant),
            "Subtract": (np.ones(1), -constant) if is_first else (-np.ones(1), constant),
            "Multiply": (constant, np.zeros(1)),
            "Negative": (-constant, np.zeros(1)),
        }.get(node.kind, (1 / constant, np.zeros(1)))


def _no_scaling(node: Node, constants: int) -> str | None:
    """Return what an operator does to an image that no mean and std do."""
    if node.kind == "Cast" and "float" not in str(node.config.get("dtype")):
        return f"rounds to {node.config.get('dtype')}"
    if len(node.operands) != constants + 1 or constants != (node.kind not in ("Negative", "Cast")):
        return f"takes {len(node.operands)} values, {constants} of them constant"
    return "divides by the image" if node.kind.endswith("Divide") and node.operands[0] is not None else None


def normalization(node: Node, weights: Weights) -> Affine:
    """Return what a Normalization layer does; its statistics stand in the config or among the weights."""
    axis = node.config.get("axis")
    if axis not in ([3], [-1], 3, -1, None, []) or node.config.get("invert"):
        raise NameMappingError(f"layer {node.name!r} normalises over axis {axis}, expected the channels")
    if node.config.get("mean") is not None:
        mean, variance = setting(node, "mean"), setting(node, "variance")
    else:
        missing = {"mean", "variance"} - weights.keys()
        if missing or any(weights[name].size > _MAX_CHANNELS for name in ("mean", "variance")):
            raise CheckpointFormatError(f"layer {node.name!r} has no usable mean and variance in the file")
        mean, variance = (weights[name].read().astype(np.float64).ravel() for name in ("mean", "variance"))
    return statistics(mean, variance)


def statistics(mean: np.ndarray, variance: np.ndarray) -> Affine:
    """Return the affine map of a mean and a variance."""
    if not (variance >= 0).all():
        raise CheckpointFormatError(f"a Normalization layer has the variance {variance.tolist()}")
    scale = 1 / np.maximum(np.sqrt(variance), _EPSILON)
    return scale, -mean * scale


_STEPS: Mapping[str, Callable[[Node, Weights], Affine]] = {
    "Rescaling": rescaling,
    "Normalization": normalization,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Cast"), operator),
}


def mean_std(affine: Affine, channels: int) -> dict[str, tuple[float, ...]]:
    """Return timm's `mean` and `std`, which apply to images of 0 … 1, of a map that applies to 0 … 255."""
    scale, offset = (np.broadcast_to(values, (channels,)) for values in affine)
    with np.errstate(divide="ignore", invalid="ignore"):
        std = 1 / (_WHITE * scale)
    if not np.isfinite([std, offset]).all():
        raise CheckpointFormatError(
            f"preprocessing by {scale.tolist()} and {offset.tolist()} leaves nothing of an image"
        )
    mean = -offset * std + 0.0  # no minus zero
    return {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}


def front(graph: LayerGraph) -> list[Node]:
    """Return the layers between the input and the first padding or convolution.

    Raises:
        NameMappingError: They are no single line.
    """
    nodes: list[Node] = []
    path = INPUT
    while True:
        users = graph.users[path]
        if all(user.kind in _NETWORK for user in users):
            return nodes
        if len(users) > 1:
            raise NameMappingError(
                f"layer {users[0].name!r} ({users[0].kind}) stands before the network and is not the only one "
                "that takes what comes before. Save the model without it"
            )
        nodes.append(users[0])
        path = users[0].path


def front_end(graph: LayerGraph) -> Path:
    """Return what gives the first padding or convolution its input: the last layer in front, or the model's input."""
    nodes = front(graph)
    return nodes[-1].path if nodes else INPUT


def preprocessing(graph: LayerGraph, weights: Mapping[Path, Weights]) -> dict[str, Any]:
    """Return timm's mean, std, input_size and what else the layers in front of the network say.

    Raises:
        NameMappingError: A layer in front of the network that is no preprocessing that timm has.
    """
    steps: list[Affine] = []
    found: dict[str, Any] = {}
    height, width, channels = graph.input_shape
    for node in front(graph):
        if node.kind in _STEPS:
            steps.append(_STEPS[node.kind](node, weights.get(node.path, {})))
        elif node.kind == "Resizing":
            height, width = node.config.get("height"), node.config.get("width")
            found |= {**RESIZING, **_resizing(node)}
        elif node.kind not in IDENTITY:
            raise NameMappingError(
                f"layer {node.name!r} ({node.kind}) stands before the network; only scaling, Resizing and "
                "random image layers can be taken over. Save the model without it"
            )
    if steps:
        found |= mean_std(join(steps), channels or 3)
    if is_side(height) and is_side(width):
        found["input_size"] = (channels or 3, height, width)
    return found


def assumed(arch: str, layers: Mapping[Path, Weights]) -> dict[str, Any]:
    """Return mean and std as keras.applications has them for an architecture, where a file has no config.

    v1 keeps its statistics among the weights. Those of ImageNet have the standard deviation in place of the variance,
    which a Rescaling by 1 / sqrt(std) behind them sets right: keras/src/applications/efficientnet.py. Nothing is
    returned where the file has other Normalization layers than that.
    """
    own = [tensors for tensors in layers.values() if {"mean", "variance"} <= tensors.keys()]
    if arch.startswith("efficientnetv2_"):
        is_base = arch.startswith("efficientnetv2_b")
        steps = [_TO_UNIT, statistics(IMAGENET_MEAN, IMAGENET_STD**2)] if is_base else [_V2_LARGE]
        return {} if own else mean_std(join(steps), 3)
    if len(own) != 1 or any(own[0][name].shape != (3,) for name in ("mean", "variance")):
        return {}
    mean, variance = (own[0][name].read().astype(np.float64) for name in ("mean", "variance"))
    steps = [_TO_UNIT, statistics(mean, variance)]
    if np.allclose(variance, IMAGENET_STD):
        steps.append((IMAGENET_STD**-0.5, np.zeros(1)))
    return mean_std(join(steps), 3)


def _resizing(node: Node) -> dict[str, Any]:
    """Return what a Resizing layer says, in timm's words."""
    interpolation = node.config.get("interpolation", RESIZING["interpolation"])
    if interpolation not in _INTERPOLATIONS:
        raise NameMappingError(
            f"layer {node.name!r} resizes by {interpolation!r}; timm has {', '.join(_INTERPOLATIONS)}. "
            "Save the model without it"
        )
    modes = [mode for flag, mode in _CROP_MODES.items() if node.config.get(flag)]
    return {"interpolation": _INTERPOLATIONS[interpolation], **({"crop_mode": modes[0]} if modes else {})}


def unlike_timms(graph: LayerGraph) -> list[str]:
    """Say what Resizing layers do that no transform of timm's does."""
    layers = [node for node in front(graph) if node.kind == "Resizing"]
    unsmoothed = [
        f"layer {node.name!r} makes images smaller without smoothing them (antialias=False), timm's transforms smooth "
        "them: large photos come out otherwise"
        for node in layers
        if not node.config.get("antialias") and node.config.get("interpolation") not in _AS_TIMMS
    ]
    padded = [
        f"layer {node.name!r} pads with {node.config.get('fill_mode', 'constant')} "
        f"{node.config.get('fill_value', 0.0)}, timm's transforms pad with the mean"
        for node in layers
        if node.config.get("pad_to_aspect_ratio")
    ]
    return unsmoothed + padded


def setting(node: Node, key: str) -> np.ndarray:
    """Return a setting as a vector, 0 where there is none."""
    return numbers(node, key, node.config.get(key, 0.0))


def numbers(node: Node, what: str, value: Any) -> np.ndarray:
    """Return numbers as a vector, for all channels or for each; Keras 3 wraps arrays in a record of their own."""
    if isinstance(value, dict):
        value = value.get("config", {}).get("value")
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError) as err:
        raise CheckpointFormatError(f"layer {node.name!r}: {what} is {value!r}, expected numbers") from err
    is_of_channels = found.size == found.shape[-1] if found.ndim else True
    if not is_of_channels or not 0 < found.size <= _MAX_CHANNELS or not np.isfinite(found).all():
        raise CheckpointFormatError(f"layer {node.name!r}: {what} is {value!r}, expected a number for each channel")
    return found.ravel()
