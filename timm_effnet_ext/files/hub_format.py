"""Files in timm's Hub format: what they are called, and what they say of images, outputs and classes."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from timm_effnet_ext.errors import CheckpointFormatError, located

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
WEIGHT_FILES = (WEIGHTS_FILE, "pytorch_model.bin")  # timm takes the first that is there
INDEX_SUFFIX = ".index.json"  # transformers', of weights in several files
INDEX_FILES = tuple(name + INDEX_SUFFIX for name in WEIGHT_FILES)
CLASS_NAMES_FILE = "class_names.txt"
"""What `timm_effnet_ext run train.py` writes into a run's folder, in the order in which the classes were numbered."""

PREPROCESSING = ("input_size", "test_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
"""The entries of a pretrained_cfg that say how images are prepared."""

MAX_SIDE = 1 << 12
"""Pixels; no EfficientNet sees larger images, and a damaged number may ask for any size."""

# What timm's transforms take: timm/data/transforms.py `str_to_interp_mode`, timm/data/transforms_factory.py.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
"""What `problem_type` may be: transformers/configuration_utils.py `PreTrainedConfig`."""

Activation = Literal["softmax", "sigmoid"]

_NAMES = ("label_names", "labels", "id2label")  # timm's word, timm's former one, and transformers'
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_BYTES = 64 << 20  # of a list of names


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, such as a config.json.

    Raises:
        CheckpointFormatError: It cannot be read, or is no object.
    """
    with located(path):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as err:
            raise CheckpointFormatError(f"not readable as JSON ({err})") from err
        if not isinstance(found, dict):
            raise CheckpointFormatError(f"expected a JSON object, found {type(found).__name__}")
    return found


def to_json(value: Any) -> str:
    """Return JSON with letters as they are; half of a pair of UTF-16, which UTF-8 lacks, as the escape for it."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def usual_problem_type(num_outputs: int) -> str:
    """Return what so many outputs mostly mean where nobody says: one is a yes or no, several exclude each other."""
    return MULTI_LABEL if num_outputs == 1 else SINGLE_LABEL


def activation_of(problem_type: str, num_outputs: int) -> Activation:
    """Return what makes probabilities of logits; a softmax over one output would say 1 of everything."""
    return "sigmoid" if num_outputs == 1 or problem_type == MULTI_LABEL else "softmax"


def stated_names(config: Mapping[str, Any]) -> dict[int, str]:
    """Return the class names that a config.json has, by output; none where it has none.

    They are a list or an object {index: name}, at the top of the config or in its `pretrained_cfg`. The placeholders
    LABEL_0, LABEL_1, … of transformers are none.

    Raises:
        ValueError: They are no texts, or their keys are no numbers.
    """
    names = _names_in(config)
    return {} if are_placeholders(names) else names


def has_placeholders(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has placeholders in place of names.

    Raises:
        ValueError: As of `stated_names`.
    """
    return are_placeholders(_names_in(config))


def are_placeholders(names: Mapping[int, str]) -> bool:
    """Whether they are what transformers/configuration_utils.py fills in for want of names."""
    return bool(names) and all(name == f"LABEL_{i}" for i, name in names.items())


def _names_in(config: Mapping[str, Any]) -> dict[int, str]:
    inner = config.get("pretrained_cfg")
    parts = (config, inner if isinstance(inner, Mapping) else {})
    key, found = next(((key, part[key]) for part in parts for key in _NAMES if part.get(key)), ("", []))
    try:
        names = {int(i): name for i, name in (found if isinstance(found, Mapping) else dict(enumerate(found))).items()}
    except (TypeError, ValueError) as err:
        raise ValueError(f"{key} is neither a list of names nor an object from numbers to names") from err
    if isinstance(found, str) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{key} has names that are no text")
    return names


def read_label_names(path: str | Path) -> tuple[str, ...]:
    """Return one name a line, or a JSON list of names; white space around a name is no part of it.

    Raises:
        CheckpointFormatError: Neither, a name that is empty, or one that is there twice.
    """
    path = Path(path)
    with located(path):
        text, is_json = _text(path), path.suffix == ".json"
        names = _json_list(text) if is_json else [line.strip() for line in text.removesuffix("\n").split("\n")]
        empty = [number for number, name in enumerate(names, 1) if not name]
        if empty or not names:
            entry = "entry" if is_json else "line"
            raise CheckpointFormatError(f"{f'{entry} {empty[0]} is empty' if empty else 'is empty'}: name each class")
        first: dict[str, int] = {}
        for number, name in enumerate(names, 1):
            if first.setdefault(name, number) != number:
                raise CheckpointFormatError(f"{name!r} is there twice, as {first[name]} and {number}")
    return tuple(names)


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointFormatError(f"{path.stat().st_size} bytes, expected a list of names")
    raw = path.read_bytes()
    try:
        if raw.startswith(_MARKS):
            raise ValueError("it is UTF-16")
        return raw.decode("utf-8-sig")  # some editors mark their files so
    except ValueError as err:
        raise CheckpointFormatError(f"not UTF-8 ({err}). Save it as UTF-8") from err


def _json_list(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise CheckpointFormatError(f"not readable as JSON: {err}") from err
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointFormatError("expected one name a line, or a JSON list of names")
    return [name.strip() for name in names]
