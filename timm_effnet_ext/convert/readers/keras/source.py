"""A Keras file on disk, whichever of its formats -> an open Checkpoint.

    .keras          zip of config.json, metadata.json and model.weights.h5 (Keras 3, and Keras 2 from 2.12 on)
    folder          of these three: `model.save` with `zipped=False`, as Keras saves to `hf://USER/REPO`
    .weights.h5     the last of them alone: no config
    .h5             whole model with the config as an attribute, or weights only (Keras 2, tf_keras; legacy in Keras 3)

hdf5.py reads the tensors, weights.py sorts them, checkpoint.py says what they come to.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.readers.keras.description import keras_checkpoint
from timm_effnet_ext.convert.readers.keras.hdf5 import SIGNATURE, Hdf5
from timm_effnet_ext.convert.readers.keras.layer_graph import parse_config
from timm_effnet_ext.convert.readers.keras.weights import LAYER_NAME, read_weights
from timm_effnet_ext.errors import CheckpointFormatError

_SUFFIXES = (".keras", ".h5", ".hdf5")
_CONFIG, _METADATA, _WEIGHTS = _MEMBERS = "config.json", "metadata.json", "model.weights.h5"
_VERSION, _MODEL_CONFIG = "keras_version", "model_config"
_ATTRIBUTES = (_VERSION, _MODEL_CONFIG, LAYER_NAME)
_MAX_CONFIG = 64 << 20  # bytes of JSON; EfficientNetV2-L has 0.6 MB
_MAX_GROWTH = 100  # of a compressed member
_CHUNK = 1 << 20
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


class _Parts(NamedTuple):
    """What every format comes down to."""

    weights: Hdf5
    config: str | None
    format: str


def is_keras(path: str | Path) -> bool:
    """Whether a path is one that `open_keras` is for, told by its first bytes or its suffix, or by what it holds."""
    path = Path(path)
    if not path.is_file():
        return all((path / name).is_file() for name in _MEMBERS) and not _is_of_keras_hub(path)
    if path.suffix in _SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(len(SIGNATURE))
    return start == SIGNATURE or (start[:2] == b"PK" and _is_keras_zip(path))


@contextmanager
def open_keras(path: str | Path, *, crc: bool = True) -> Iterator[Checkpoint]:
    """Open a Keras file; its tensors can be read as long as it is open. `crc` checks the whole of a zip first.

    Raises:
        CheckpointFormatError: No Keras file, or a damaged one.
        NameMappingError: A model with layers that no timm EfficientNet has.
    """
    path = Path(path)
    with _open_parts(path, crc) as parts:
        graph = parse_config(parts.config) if parts.config is not None else None
        weights = read_weights(parts.weights, graph)
        files = tuple(path / name for name in _MEMBERS) if path.is_dir() else (path,)
        yield keras_checkpoint(path, parts.format, files, graph, weights)


@contextmanager
def _open_parts(path: Path, crc: bool) -> Iterator[_Parts]:
    if path.is_dir():
        yield _read_folder(path)
        return
    if not path.is_file():
        raise CheckpointFormatError("no such file")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with _open_zip(path, crc) as parts:
            yield parts
    else:
        yield _read_h5(path)


def _read_h5(path: Path) -> _Parts:
    file = Hdf5(path, _ATTRIBUTES)
    version, config = file.text(_VERSION) or file.text(_VERSION, "model_weights"), file.text(_MODEL_CONFIG)
    kind = ".weights.h5" if version is None else ".h5, whole model" if config else ".h5, weights only"
    return _Parts(file, config, f"Keras {version or 3} {kind}")


def _read_folder(folder: Path) -> _Parts:
    for name in (_CONFIG, _METADATA):
        _check_size(name, (folder / name).stat().st_size)
    try:
        config, metadata = ((folder / name).read_text(encoding="utf-8") for name in (_CONFIG, _METADATA))
    except UnicodeDecodeError as err:
        raise CheckpointFormatError(f"broken .keras file: {err}") from err
    return _Parts(Hdf5(folder / _WEIGHTS, _ATTRIBUTES), config, f"Keras {_version(metadata)} .keras, unpacked")


@contextmanager
def _open_zip(path: Path, crc: bool) -> Iterator[_Parts]:
    with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                config, metadata = (_text(archive, name) for name in (_CONFIG, _METADATA))
                info = _member(archive, _WEIGHTS)
                is_stored = info.compress_type == zipfile.ZIP_STORED
                start, size = (_start(path, info, crc), info.file_size) if is_stored else (0, None)
                unpacked = None if is_stored else _unpack(archive, info, Path(folder, "weights.h5"))
        except CheckpointFormatError:
            raise
        except _BROKEN_ZIP as err:
            raise CheckpointFormatError(f"broken .keras file: {err}") from err
        file = Hdf5(path, _ATTRIBUTES, start=start, size=size, unpacked=unpacked)
        yield _Parts(file, config, f"Keras {_version(metadata)} .keras")


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    if name not in archive.namelist():
        raise CheckpointFormatError(f"has no {name}, found {', '.join(archive.namelist()[:5])}: no .keras file")
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise CheckpointFormatError(f"{name} is encrypted")
    if info.file_size > max(_CHUNK, _MAX_GROWTH * info.compress_size):
        raise CheckpointFormatError(f"{name} unpacks {info.compress_size} bytes to {info.file_size}: refused")
    return info


def _text(archive: zipfile.ZipFile, name: str) -> str:
    info = _member(archive, name)
    _check_size(name, info.file_size)
    return archive.read(info).decode("utf-8")


def _start(path: Path, info: zipfile.ZipInfo, crc: bool) -> int:
    """Return where a stored member's bytes begin, after checking them."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if header[:4] != b"PK\3\4":
            raise CheckpointFormatError(f"no member at offset {info.header_offset}")
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))  # lengths
        start = info.header_offset + 30 + name + extra
        if start + info.file_size > os.path.getsize(path):
            raise CheckpointFormatError(f"{info.filename} is cut")
        if crc:
            file.seek(start)
            left, found = info.file_size, 0
            while left:
                chunk = file.read(min(left, _CHUNK))
                found, left = zlib.crc32(chunk, found), left - len(chunk)
            if found != info.CRC:
                raise CheckpointFormatError(f"{info.filename} has a wrong checksum: the file is damaged")
    return start


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Path:
    with archive.open(info) as packed, target.open("wb") as out:
        shutil.copyfileobj(packed, out, _CHUNK)  # checks the checksum at the end
    return target


def _check_size(name: str, size: int) -> None:
    if size > _MAX_CONFIG:
        raise CheckpointFormatError(f"{name} has {size} bytes, at most {_MAX_CONFIG} are expected")


def _version(metadata: str) -> str:
    try:
        version = json.loads(metadata)["keras_version"]
    except (ValueError, TypeError, LookupError, RecursionError):  # it is for people alone
        version = None
    return version if isinstance(version, str) else "3"


def _is_of_keras_hub(folder: Path) -> bool:
    """Whether a folder is a preset of KerasHub, whose config is none of Keras'."""
    return b'"keras_hub_version"' in (folder / _METADATA).read_bytes()[:_CHUNK]


def _is_keras_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {_CONFIG, _METADATA} <= set(archive.namelist())
    except _BROKEN_ZIP:
        return False
