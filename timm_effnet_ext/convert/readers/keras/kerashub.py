"""KerasHub's models as layers that are known: the config of a task is one record, that of a backbone no layers at all.

Source: keras-team/keras-hub keras_hub/src/models/image_classifier.py, layers/preprocessing/image_converter.py,
models/efficientnet/efficientnet_backbone.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm_effnet_ext.errors import NameMappingError

BACKBONE = "EfficientNetBackbone"
_POOLERS = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}
_RESIZING = ("interpolation", "crop_to_aspect_ratio", "pad_to_aspect_ratio")


def as_layers(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return a task or backbone of KerasHub as the Sequential model that it is; all other configs as they are.

    `preprocessor` is the one that stands in a file of its own.
    """
    own = config.get("config") if isinstance(config, dict) else None
    if not isinstance(own, dict):
        return config
    backbone = own.get("backbone")
    if config.get("class_name") == BACKBONE:
        layers = [_layer(BACKBONE, own)]
    elif isinstance(backbone, dict) and backbone.get("class_name") == BACKBONE:
        pooler = _layer(_POOLERS.get(str(own.get("pooling")), "pooling"), {"name": "pooler"})
        dense = _layer("Dense", {"name": "predictions", "activation": own.get("activation"), "use_bias": True})
        layers = [_layer(BACKBONE, backbone["config"]), pooler, dense]
    else:
        return config
    front = _front(own.get("preprocessor") or preprocessor or {})
    return {"class_name": "Sequential", "config": {"name": "task", "layers": [*front, *layers]}}


def backbone_args(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which our model computes what a backbone does.

    Raises:
        NameMappingError: Blocks or padding that no model of timm's has.
    """
    blocks = {str(kind) for kind in config["stackwise_block_types"]}
    is_padded = config.get("include_stem_padding") and config.get("stem_conv_padding") == "valid"
    if blocks != {"v1"} or not is_padded or config.get("projection_activation"):
        raise NameMappingError(
            f"a backbone of KerasHub with blocks {', '.join(sorted(blocks))}: supported are those of v1 with the "
            "padding of PyTorch throughout; others are padded in both ways within one network, as no model of timm's is"
        )
    activation = {"swish": "silu"}.get(config["activation"], config["activation"])
    return {"pad_type": "", "bn_eps": float(config["batch_norm_epsilon"]), "act_layer": activation}


def _front(preprocessor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what an image converter does, as layers; it may stand in a preprocessor."""
    found = preprocessor.get("config") or {}
    converter = (found.get("image_converter") or {}).get("config") or found
    front = []
    if isinstance(size := converter.get("image_size"), list) and len(size) == 2:
        how = {name: converter[name] for name in _RESIZING if name in converter}
        front.append(_layer("Resizing", {"name": "image_size", "height": size[0], "width": size[1], **how}))
    scale, offset = converter.get("scale"), converter.get("offset")
    if scale is not None or offset is not None:
        settings = {"scale": 1.0 if scale is None else scale, "offset": 0.0 if offset is None else offset}
        front.append(_layer("Rescaling", {"name": "image_converter", **settings}))
    return front


def _layer(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": kind.lower(), **config}}
