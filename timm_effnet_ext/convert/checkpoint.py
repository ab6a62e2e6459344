"""One opened source, whatever wrote it: the record that every reader returns and the pipeline works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from timm_effnet_ext.convert.variables import Variables

Framework = Literal["tensorflow", "keras", "torch"]


@dataclass(frozen=True)
class Checkpoint:
    """What a source holds and says of itself.

    `preprocessing` are entries of timm's pretrained_cfg (mean, std, input_size, …) that the file itself states,
    `model_args` are arguments of the model (pad_type, bn_eps, …) that it states.
    `graph` evaluates the layer graph that the file carries, independently of any name table: images (B, H, W, 3) in
    float32, 0 … 255, as the framework's model takes them, to what comes before the last activation.
    """

    path: Path
    framework: Framework
    format: str  # for people, e.g. "tensor bundle", "Keras 3 .keras"
    files: tuple[Path, ...]  # every file that was read
    variables: Variables
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)
    graph: Callable[[np.ndarray], np.ndarray] | None = None
