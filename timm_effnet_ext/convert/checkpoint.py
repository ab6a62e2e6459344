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
    `model_args` arguments of the model that its weights need. `activation` is what the file puts on the logits.
    `graph` evaluates the layer graph that the file carries, independently of any name table: images (B, H, W, 3) in
    float32, 0 … 255, as the framework's model takes them, to what comes before the last activation: logits
    (B, classes), or pooled features (B, C) where there is no classifier. It raises VerificationError for a size that
    the graph was not built for. Where the file has no preprocessing layers, `graph_takes_pixels` is false, and it takes
    normalised images. `notes` are for whoever converts: what the file leaves open and what was taken.
    """

    path: Path
    framework: Framework
    format: str  # for people, e.g. "tensor bundle", "Keras 3 .keras"
    files: tuple[Path, ...]  # every file that was read
    variables: Variables
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)
    activation: str | None = None
    notes: tuple[str, ...] = ()
    graph: Callable[[np.ndarray], np.ndarray] | None = None
    graph_takes_pixels: bool = True
