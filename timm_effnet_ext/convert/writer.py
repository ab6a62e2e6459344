"""Streams tensors into a safetensors file, one in memory at a time.

    FILE = header size (uint64) | header (JSON, padded with spaces to a multiple of 8 bytes) | the tensors' bytes

The header maps each name to {"dtype", "shape", "data_offsets": [begin, end]}, counted from behind the header. The
library's own writers want every tensor in memory, or its bytes in one piece.
Spec: github.com/huggingface/safetensors README, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from timm_effnet_ext.arch.layout import Shape
from timm_effnet_ext.errors import CheckpointFormatError

DTYPES = {"F32": "<f4", "I64": "<i8"}


class Slot(NamedTuple):
    """One tensor to be written; its values are asked for when it is its turn."""

    name: str
    dtype: str  # key of DTYPES
    shape: Shape
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


def write_safetensors(
    path: Path, slots: Sequence[Slot], *, tell: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write a new file tensor by tensor and compare what can be read again; `tell` is given the bytes done, and all.

    Raises:
        CheckpointFormatError: Values of another shape than was announced, or the file reads otherwise than written.
    """
    header, total = _header(slots), sum(slot.nbytes for slot in slots)
    sums = []
    with path.open("xb") as file:
        file.write(header)
        for slot in slots:
            tell(file.tell() - len(header), total)
            values = slot.load()
            if values.shape != slot.shape:
                raise CheckpointFormatError(f"{slot.name}: shape {values.shape}, expected {slot.shape}")
            # A transposed view has its bytes in another order than its elements.
            data = np.ascontiguousarray(values, DTYPES[slot.dtype]).reshape(-1).view(np.uint8)
            file.write(data.data)
            sums.append(google_crc32c.value(data))
    tell(total, total)
    _reread(path, header, slots, sums)


def _header(slots: Sequence[Slot]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers and timm look for it
    at = 0
    for slot in slots:
        end = at + slot.nbytes
        table[slot.name] = {"dtype": slot.dtype, "shape": slot.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _reread(path: Path, header: bytes, slots: Sequence[Slot], sums: list[int]) -> None:
    with path.open("rb") as file:
        is_same = file.read(len(header)) == header
        for slot, expected in zip(slots, sums, strict=True):
            is_same &= google_crc32c.value(file.read(slot.nbytes)) == expected
        if not is_same or file.read(1):
            raise CheckpointFormatError(f"{path}: reads otherwise than it was written: is the disk in order?")
