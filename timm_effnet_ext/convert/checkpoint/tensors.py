"""One named tensor of a checkpoint, described at once and read on demand: what every reader yields."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from timm_effnet_ext.arch.layout import Shape
from timm_effnet_ext.errors import located


def widened(bfloat16: np.ndarray) -> np.ndarray:
    """Return the bits of bfloat16 numbers (uint16), which are the upper half of a float32, as float32."""
    return (bfloat16.astype("<u4") << 16).view("<f4")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor that is still in its file; `dtype` is TensorFlow's name, e.g. "float32" or "bfloat16".

    `file` is the one that lists it, which errors begin with unless `load` says that another is at fault.
    """

    name: str
    dtype: str
    shape: Shape
    file: Path
    load: Callable[[], np.ndarray] = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Return the values, checked; a read-only view of the file where its bytes can be used as they are."""
        with located(self.file):
            return self.load()
