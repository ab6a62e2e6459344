"""What the outputs of a model mean, in the words of config.json: how logits become probabilities, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
"""What `problem_type` may be: transformers/configuration_utils.py `PreTrainedConfig`."""

Activation = Literal["softmax", "sigmoid"]

_NAMES = ("label_names", "labels", "id2label")  # timm's word, timm's former one, and transformers'


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
