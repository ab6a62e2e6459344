"""PyTorch's files -> Checkpoint: safetensors mapped without torch, pickles by torch's own loader of weights.

Of a checkpoint in several files transformers' index says which file has which tensor:

    {"weight_map": {name of a tensor: name of a file beside the index, …}, …}

contents.py says what a loaded pickle holds, statements.py, settings.py and transformers.py what stands beside the
weights. Source: huggingface_hub/serialization/_base.py `split_state_dict_into_shards_factory`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Statement, TensorEntry, widened
from timm_effnet_ext.convert.readers.pytorch.contents import Contents, contents, scalar, sorted_out
from timm_effnet_ext.convert.readers.pytorch.pickles import load_pickle
from timm_effnet_ext.convert.readers.pytorch.statements import beside, class_names_of_data, config_statements
from timm_effnet_ext.convert.readers.pytorch.transformers import trainer_step
from timm_effnet_ext.errors import CheckpointFormatError, first_few, located
from timm_effnet_ext.files.hub_format import INDEX_FILES, INDEX_SUFFIX, WEIGHT_FILES, read_object

_ZIP, _LEGACY = b"PK\x03\x04", bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # magic number of torch/serialization.py
_INDEX_SUFFIXES = tuple(kind + INDEX_SUFFIX for kind in (".safetensors", ".bin"))
_MAX_HEADER = 100_000_000  # bytes of a safetensors header that the format allows
# safetensors dtype -> (name, numpy dtype of the bytes)
_DTYPES = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"), "I32": ("int32", "<i4"), "I16": ("int16", "<i2"), "I8": ("int8", "|i1"),
    "U8": ("uint8", "|u1"), "BOOL": ("bool", "|b1"),
}  # fmt: skip


def weight_file(path: Path) -> Path | None:
    """Return the weight file, or the index of several, that a path names, if it is one of PyTorch's.

    A folder may be in timm's Hub format, or one that transformers wrote.
    """
    if path.is_dir():
        return next((path / name for name in (*WEIGHT_FILES, *INDEX_FILES) if (path / name).is_file()), None)
    if not path.is_file():
        return None
    return path if _is_index(path) or _is_safetensors(path) or _is_pickle(path) else None


def read_torch(path: Path, file: Path, *, crc: bool = True, is_local: bool = True) -> Checkpoint:
    """Read the `weight_file` of a path. `crc` checks the whole of a zip first.

    With `is_local` the data folder and the class map that the arguments of a run name are looked for on this machine.

    Raises:
        CheckpointFormatError: Damaged, or with other Python objects than tensors, which are never loaded.
    """
    with located(file):
        found, form, files = _sharded(file, crc) if _is_index(file) else (*_contents(file, crc), (file,))
    if (step := trainer_step(file)) is not None:
        found.variables.counters.setdefault("global_step", scalar(file, "global_step", step))
    own, unknown = config_statements(file)
    inside = (*own, *found.statements)
    said, run = beside(file, found.run, has_config=any(one.name or one.dialects for one in own))
    names = class_names_of_data(run) if run and is_local else None
    said += [names] if isinstance(names, Statement) else []
    return Checkpoint(
        path=path,
        framework="torch",
        format=form,
        files=files,
        variables=found.variables,
        statements=(*inside, *said) if own else (*said, *inside),
        notes=(*found.notes, *unknown, *([names] if isinstance(names, str) else [])),
    )


def _contents(file: Path, crc: bool) -> tuple[Contents, str]:
    """Return what one file holds, and what kind it is."""
    if _is_safetensors(file):
        return Contents(sorted_out(_mapped_tensors(file), {})), "safetensors"
    loaded, form = load_pickle(file, crc)
    return contents(file, loaded), form


def _sharded(index: Path, crc: bool) -> tuple[Contents, str, tuple[Path, ...]]:
    """Return what the shards of an index hold together, each tensor where the index says."""
    placed = _placed(index)
    shards = sorted(set(placed.values()))
    parts = []
    for shard in shards:
        with located(shard):
            parts.append(_contents(shard, crc))
    found, forms = zip(*parts, strict=True)
    tensors = {name: entry for part in found for name, entry in part.variables.model.items()}
    wrong = {name for name in placed.keys() | tensors.keys()
             if name not in tensors or tensors[name].file != placed.get(name)}  # fmt: skip
    if wrong:
        raise CheckpointFormatError(
            f"{len(wrong)} tensors are not in the shards where the index says: {first_few(wrong, 3)}. "
            "Are they of one checkpoint?"
        )
    variables = replace(found[0].variables, model=tensors)
    return Contents(variables), f"{forms[0]} in {len(shards)} shards", (index, *shards)


def _placed(index: Path) -> dict[str, Path]:
    """Return the shard of each tensor that an index names, which lies beside it."""
    names: Any = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointFormatError("expected a weight_map from the names of tensors to files beside the index")
    if outside := {name for name in names.values() if not _is_plain(name)}:
        raise CheckpointFormatError(f"its weight_map names {first_few(outside, 2)}, expected files beside the index")
    shards = set(names.values())
    if missing := [name for name in shards if not index.with_name(name).is_file()]:
        raise CheckpointFormatError(
            f"{len(missing)} of {len(shards)} shards are not there: {first_few(missing, 3)}. "
            "Copy or download all files that the index names into its folder"
        )
    return {tensor: index.with_name(name) for tensor, name in names.items()}


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


def _is_index(path: Path) -> bool:
    return path.name.endswith(_INDEX_SUFFIXES)


def _is_plain(name: str) -> bool:
    """Whether a text is the name of a file and no path, on any system."""
    return name not in ("", ".", "..") and name == PurePosixPath(name).name == PureWindowsPath(name).name


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as one of safetensors does."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def _mapped_tensors(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors by name, after the library has checked the header."""
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
