"""PyTorch's files -> Checkpoint: safetensors without torch, pickles by torch's own loader of weights.

contents.py says what a loaded pickle holds, statements.py and settings.py what stands beside the weights.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Variables
from timm_effnet_ext.convert.checkpoint.tensors import TensorEntry, widened
from timm_effnet_ext.convert.readers.pytorch.contents import Contents, beside, contents, sorted_out
from timm_effnet_ext.convert.readers.pytorch.pickles import load_pickle
from timm_effnet_ext.convert.readers.pytorch.settings import config_statement
from timm_effnet_ext.errors import CheckpointFormatError, located
from timm_effnet_ext.files.hub_format import WEIGHT_FILES

_ZIP, _LEGACY = b"PK\x03\x04", bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # magic number of torch/serialization.py
_MAX_HEADER = 100_000_000  # bytes of a safetensors header that the format allows
# safetensors dtype -> (name, numpy dtype of the bytes)
_DTYPES = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"), "I32": ("int32", "<i4"), "I16": ("int16", "<i2"), "I8": ("int8", "|i1"),
    "U8": ("uint8", "|u1"), "BOOL": ("bool", "|b1"),
}  # fmt: skip


def recognise(path: Path) -> Path | None:
    """Return the weight file that a path names, if it is one of PyTorch's; a folder may be in timm's Hub format."""
    if path.is_dir():
        return next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if not path.is_file():
        return None
    return path if _is_safetensors(path) or _is_pickle(path) else None


@contextmanager
def open_torch(path: Path, *, crc: bool = True) -> Iterator[Checkpoint]:
    """Open a file that `recognise` knows. `crc` checks the whole of a zip first.

    Raises:
        CheckpointFormatError: Damaged, or with other Python objects than tensors, which are never loaded.
    """
    file = recognise(path)
    if file is None:
        raise CheckpointFormatError("is no PyTorch file")
    with located(file):
        if _is_safetensors(file):
            found, form = Contents(_safetensors(file)), "safetensors"
        else:
            loaded, form = load_pickle(path=file, crc=crc)
            found = contents(file, loaded)
    config = config_statement(file)
    inside = (*([config] if config else []), *found.statements)
    said, notes = beside(file, inside)
    yield Checkpoint(
        path=path,
        framework="torch",
        format=form,
        files=(file,),
        variables=found.variables,
        statements=(*said, *inside) if config is None else (*inside, *said),
        notes=(*found.notes, *notes),
    )


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(len(_LEGACY))
    if head.startswith(_ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
            return path.suffix in (".pth", ".pt", ".bin")  # cut: its own reader says so
    return head == _LEGACY


def _safetensors(path: Path) -> Variables:
    """Return the tensors as views of the mapped file, after the library has checked the header."""
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
    tensors = {name: _mapped(path, data, name, row) for name, row in header.items()}
    return sorted_out(tensors, {})


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
