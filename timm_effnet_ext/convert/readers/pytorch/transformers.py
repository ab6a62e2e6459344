"""What transformers says of an EfficientNet beside its weights: its config.json, and that of its image processor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_effnet_ext.arch.rows import BN_EPS, SE_RATIO, V1
from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.convert.dialects.preparation import crop_share
from timm_effnet_ext.convert.dialects.pytorch import TRANSFORMERS, TRANSFORMERS_MODEL
from timm_effnet_ext.convert.readers.pytorch.settings import (
    SETTINGS,
    Check,
    are_numbers,
    are_positive,
    check_values,
    is_number,
    is_positive,
    is_side,
    names_in,
)
from timm_effnet_ext.errors import CheckpointFormatError, located
from timm_effnet_ext.files.hub_format import CONFIG_FILE, PROBLEM_TYPES, read_object

MODEL_TYPE = "efficientnet"
PROCESSOR_FILE, TRAINER_FILE = "preprocessor_config.json", "trainer_state.json"

# What no shape shows or explains, with the defaults: transformers/models/efficientnet/configuration_efficientnet.py
_CONFIG: Mapping[str, Any] = {
    "batch_norm_eps": BN_EPS, "hidden_act": "swish", "pooling_type": "mean", "depthwise_padding": [],
    "strides": [stage.stride for stage in V1], "kernel_sizes": [stage.kernel for stage in V1],
    "expand_ratios": [stage.expand for stage in V1], "squeeze_expansion_ratio": SE_RATIO,
}  # fmt: skip
_CHECKS: Mapping[str, Check] = {
    "batch_norm_eps": is_positive,
    "depthwise_padding": lambda value: value == [] or are_numbers(value),
    "image_size": lambda value: _sides(value) is not None,
    "problem_type": PROBLEM_TYPES.__contains__,
}
# What a network of ours may have of these, and what timm calls it.
_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "hidden_act": {"swish": "silu", "silu": "silu", "relu": "relu", "relu6": "relu6"},
    "pooling_type": {"mean": "avg", "max": "max"},
    **{
        name: {str(_CONFIG[name]): None}
        for name in ("strides", "kernel_sizes", "expand_ratios", "squeeze_expansion_ratio")
    },
}

# transformers/models/efficientnet/image_processing_efficientnet.py: what its processor does where nothing is said
_PROCESSORS = re.compile(r"EfficientNet(ImageProcessor\w*|FeatureExtractor)")
_PROCESSOR: Mapping[str, Any] = {
    "do_resize": True, "size": {"height": 346, "width": 346}, "resample": 3,
    "do_center_crop": False, "crop_size": {"height": 289, "width": 289},
    "do_rescale": True, "rescale_factor": 1 / 255, "rescale_offset": False,
    "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "include_top": True,
}  # fmt: skip
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by number: PIL.Image.Resampling
_PROCESSOR_CHECKS: Mapping[str, Check] = {
    **dict.fromkeys(
        ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "rescale_offset", "include_top"),
        lambda value: isinstance(value, bool),
    ),
    "size": lambda value: _sides(value) is not None,
    "crop_size": lambda value: _sides(value) is not None,
    "resample": lambda value: is_number(value) and value in range(len(_RESAMPLING)),
    "rescale_factor": is_positive,
    "image_mean": lambda value: is_number(value) or are_numbers(value),
    "image_std": lambda value: is_positive(value) or are_positive(value),
}
_DIGITS = 7  # that are kept of mean and std: the published std is that of others, its root rounded to eight


def transformers_statements(config: Mapping[str, Any], file: Path) -> tuple[list[Statement], list[str]]:
    """Return what a config.json of transformers and the processor's file beside it say, and what they leave unknown.

    Raises:
        CheckpointFormatError: A setting makes no sense, or is one that none of the 29 architectures has.
    """
    check_values(config, _CHECKS)
    said = {name: usual if config.get(name) is None else config[name] for name, usual in _CONFIG.items()}
    known = {name: _known(name, said[name]) for name in _KNOWN}
    names, unnamed = names_in(config)
    size = _sides(config.get("image_size"))
    model = Statement(
        CONFIG_FILE,
        model_args={"bn_eps": said["batch_norm_eps"], "act_layer": known["hidden_act"],
                    "global_pool": known["pooling_type"]},
        preprocessing={"input_size": [3, *size]} if size and len(size) == 2 else {},
        problem_type=config.get("problem_type"),
        label_names=names,
        symmetric_blocks=frozenset(said["depthwise_padding"]),
        dialects=(TRANSFORMERS.name, TRANSFORMERS_MODEL.name),
    )  # fmt: skip
    prepared, notes = _of_processor(file)
    return [*prepared, model], [*notes, *unnamed]


def _known(name: str, value: Any) -> Any:
    if str(value) not in _KNOWN[name]:
        ours = ", ".join(_KNOWN[name])
        raise CheckpointFormatError(
            f"{name} is {value!r}, which none of the 29 architectures has ({ours}). It cannot be converted"
        )
    return _KNOWN[name][str(value)]


def trainer_step(file: Path) -> int | None:
    """Return the step at which transformers' Trainer saved a checkpoint, where its state lies beside it."""
    try:
        step = read_object(file.with_name(TRAINER_FILE)).get("global_step")
    except CheckpointFormatError:  # mostly not there
        return None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _of_processor(file: Path) -> tuple[list[Statement], list[str]]:
    """Return what the image processor does; that of a checkpoint of Trainer's may lie in the run's folder."""
    folders = [file.parent, *([file.parent.parent] if file.with_name(TRAINER_FILE).is_file() else [])]
    path = next((found for folder in folders if (found := folder / PROCESSOR_FILE).is_file()), None)
    if path is None:
        return [], []
    with located(path):
        config = read_object(path)
        kind = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
        if not _PROCESSORS.fullmatch(str(kind)):
            return [], [f"{PROCESSOR_FILE} is of {kind or 'no processor that it names'}, which is not read"]
        check_values(config, _PROCESSOR_CHECKS)
        said = {name: usual if config.get(name) is None else config[name] for name, usual in _PROCESSOR.items()}
        prepared = {**_resized(said), **_normalised(said)}
        check_values(prepared, SETTINGS)  # numbers that make sense may come to none that do
    unknown = f"{PROCESSOR_FILE} resizes and crops in a way that timm's transforms do not have"
    return [Statement(PROCESSOR_FILE, preprocessing=prepared)], [] if "crop_pct" in prepared else [unknown]


def _resized(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return size and crop in the words of timm's transforms, without the crop where these cannot do it.

    timm resizes to the size of the crop, divided by `crop_pct` and rounded down: each side for itself (squash), or the
    shorter one.
    """
    size, crop = _sides(said["size"]) or (), _sides(said["crop_size"]) or ()
    crop = crop if said["do_center_crop"] else size
    found: dict[str, Any] = {"interpolation": _RESAMPLING[said["resample"]]} if said["do_resize"] else {}
    if len(crop) != 2:
        return found
    found["input_size"] = [3, *crop]
    is_squashed = len(size) == 2
    if not said["do_resize"] or not size or not (is_squashed or crop[0] == crop[1]):
        return found
    share = crop_share(crop[0], size[0])
    if share > 1 or math.floor(crop[1] / share) != size[-1]:
        return found
    return {**found, "crop_pct": share, "crop_mode": "squash" if is_squashed else "center"}


def _normalised(said: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return mean and std of images of 0 … 1.

    The processor gives (x · factor - offset - mean) / std, and with `include_top` divides that by std again, even if it
    does not normalise before.
    """
    factor = 255 * (said["rescale_factor"] if said["do_rescale"] else 1)
    offset = int(said["do_rescale"] and said["rescale_offset"])
    means, stds = _channels(said["image_mean"]), _channels(said["image_std"])
    is_normalised, times = said["do_normalize"], said["do_normalize"] + said["include_top"]
    count = max(len(means), len(stds))
    means, stds = (values * count if len(values) == 1 else values for values in (means, stds))
    return {
        "mean": [_rounded((offset + is_normalised * mean) / factor) for mean in means],
        "std": [_rounded(math.prod([std] * times) / factor) for std in stds],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _channels(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def _sides(size: Any) -> tuple[int, ...] | None:
    """Return (height, width) or the shorter side of a size; () where it says neither, None of what is none."""
    if isinstance(size, Mapping):
        found = tuple(size[name] for name in ("height", "width", "shortest_edge") if size.get(name) is not None)
    else:
        found = tuple(size) if isinstance(size, list) else (size, size)
    return found if len(found) <= 2 and all(map(is_side, found)) else None
