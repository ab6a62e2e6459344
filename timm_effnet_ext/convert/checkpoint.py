"""One opened source and its variables, whatever wrote it: what every reader returns and the pipeline works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from timm_effnet_ext.convert.tensors import TensorEntry

Framework = Literal["tensorflow", "keras", "torch"]


@dataclass(frozen=True)
class Variables:
    """A checkpoint's tensors by what they are; names are those that the model's code gave its variables."""

    model: dict[str, TensorEntry] = field(default_factory=dict)
    ema: dict[str, TensorEntry] = field(default_factory=dict)  # by the name of the variable that they average
    slots: dict[str, TensorEntry] = field(default_factory=dict)
    counters: dict[str, TensorEntry] = field(default_factory=dict)
    metadata: tuple[str, ...] = ()  # tensors that hold no values, such as the object graph

    @property
    def step(self) -> int | None:
        """The training step, where the checkpoint has one."""
        found = [entry for name, entry in self.counters.items() if name.rpartition("/")[2] in ("global_step", "step")]
        return int(found[0].read()) if len(found) == 1 and not found[0].shape else None


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
