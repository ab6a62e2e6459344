"""A safetensors file -> its tensors, as views of the mapped file, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry, widened
from timm_effnet_ext.errors import CheckpointFormatError

_MAX_HEADER = 100_000_000  # bytes of a safetensors header that the format allows
# safetensors dtype -> (name, numpy dtype of the bytes)
_DTYPES = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"), "I32": ("int32", "<i4"), "I16": ("int16", "<i2"), "I8": ("int8", "|i1"),
    "U8": ("uint8", "|u1"), "BOOL": ("bool", "|b1"),
}  # fmt: skip


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as one of safetensors does."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def mapped_tensors(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors by name, after the library has checked the header.

    Raises:
        CheckpointFormatError: The file is cut, or is none of safetensors.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OverflowError, MemoryError) as err:
        raise CheckpointFormatError(f"cut or no safetensors file ({err})") from err
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + size) if path.stat().st_size > 8 + size else np.empty(0, np.uint8)
    return {name: _mapped(path, data, name, row) for name, row in header.items()}


def _mapped(path: Path, data: np.ndarray, name: str, row: Mapping[str, Any]) -> TensorEntry:
    kind, shape = row["dtype"], tuple(row["shape"])
    begin, end = row["data_offsets"]
    dtype, stored = _DTYPES.get(kind, (kind, None))

    def load() -> np.ndarray:
        if stored is None:
            raise CheckpointFormatError(f"{name!r} has dtype {kind}, supported are {', '.join(_DTYPES)}")
        values = data[begin:end].view(stored).reshape(shape)
        return widened(values) if dtype == "bfloat16" else values

    return TensorEntry(name, dtype, shape, path, load)
