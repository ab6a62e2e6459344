"""A Keras file on disk, whichever of its formats -> an open Checkpoint.

    .keras          zip of config.json, metadata.json and model.weights.h5 (Keras 3, and Keras 2 from 2.12 on)
    folder          of these three: `model.save` with `zipped=False`, as Keras saves to `hf://USER/REPO`
    .weights.h5     the last of them alone: no config
    preset          of KerasHub, a folder of config.json and model.weights.h5, with task.json and others
    .h5             whole model with the config as an attribute, or weights only (Keras 2, tf_keras; legacy in Keras 3)

hdf5.py reads the tensors, weights.py sorts them, checkpoint.py says what they come to.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.readers.keras.description import keras_checkpoint
from timm_effnet_ext.convert.readers.keras.hdf5 import Hdf5
from timm_effnet_ext.convert.readers.keras.layer_graph import parse_config
from timm_effnet_ext.convert.readers.keras.recognise import BROKEN_ZIP, MEMBERS
from timm_effnet_ext.convert.readers.keras.weights import LAYER_NAME, KerasWeights, read_weights
from timm_effnet_ext.errors import CheckpointFormatError, located

_CONFIG, _METADATA, _WEIGHTS = MEMBERS
_TASK, _TASK_WEIGHTS = "task.json", "task.weights.h5"
_PREPROCESSOR, _CONVERTER = "preprocessor.json", "image_converter.json"
_OF_PRESET = (_CONFIG, _WEIGHTS, _TASK, _TASK_WEIGHTS, _PREPROCESSOR, _CONVERTER)
_VERSION, _MODEL_CONFIG = "keras_version", "model_config"
_ATTRIBUTES = (_VERSION, _MODEL_CONFIG, LAYER_NAME)
_MAX_CONFIG = 64 << 20  # bytes of JSON; EfficientNetV2-L has 0.6 MB
_MAX_GROWTH = 100  # of a compressed member
_CHUNK = 1 << 20


class _Parts(NamedTuple):
    """What every format comes down to."""

    weights: Hdf5
    config: str | None
    format: str


@contextmanager
def open_keras(path: str | Path) -> Iterator[Checkpoint]:
    """Open a Keras file; its tensors can be read as long as it is open.

    Raises:
        CheckpointFormatError: No Keras file, or a damaged one.
        NameMappingError: A model with layers that no timm EfficientNet has.
    """
    path = Path(path)
    if path.is_dir() and _is_preset(path):
        yield _preset(path)
        return
    with _open_parts(path) as parts:
        graph = parse_config(parts.config) if parts.config is not None else None
        weights = read_weights(parts.weights, graph)
        files = tuple(path / name for name in MEMBERS) if path.is_dir() else (path,)
        yield keras_checkpoint(path, parts.format, files, graph, weights)


def _preset(folder: Path) -> Checkpoint:
    """Return what KerasHub's `save_to_preset` wrote: a backbone, and a task's head and preprocessor beside it."""
    there = {name: folder / name for name in _OF_PRESET if (folder / name).is_file()}
    texts = {name: _beside(path) for name, path in there.items() if path.suffix == ".json"}
    preprocessor = texts.get(_PREPROCESSOR) or texts.get(_CONVERTER)
    graph = parse_config(texts.get(_TASK) or texts[_CONFIG], preprocessor)
    parts = []
    for name in (_WEIGHTS, _TASK_WEIGHTS):
        if name in there:
            with located(there[name]):
                parts.append(read_weights(Hdf5(there[name], _ATTRIBUTES), graph))
    layers = {path: tensors for part in parts for path, tensors in part.layers.items()}
    slots, counters = ({key: entry for part in parts for key, entry in getattr(part, kind).items()}
                       for kind in ("slots", "counters"))  # fmt: skip
    return keras_checkpoint(
        folder, "KerasHub preset", tuple(there.values()), graph, KerasWeights(layers, slots, counters)
    )


def _beside(path: Path) -> str:
    with located(path):
        _check_size(path.name, path.stat().st_size)
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as err:
            raise CheckpointFormatError(f"the model config is no usable JSON: {err}") from err


@contextmanager
def _open_parts(path: Path) -> Iterator[_Parts]:
    if path.is_dir():
        yield _read_folder(path)
        return
    if not path.is_file():
        raise CheckpointFormatError("no such file")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with _open_zip(path) as parts:
            yield parts
    else:
        yield _read_h5(path)


def _read_h5(path: Path) -> _Parts:
    file = Hdf5(path, _ATTRIBUTES)
    version, config = file.text(_VERSION) or file.text(_VERSION, "model_weights"), file.text(_MODEL_CONFIG)
    kind = ".weights.h5" if version is None else ".h5, whole model" if config else ".h5, weights only"
    return _Parts(file, config, f"Keras {version or 3} {kind}")


def _read_folder(folder: Path) -> _Parts:
    config, metadata = (_beside(folder / name) for name in (_CONFIG, _METADATA))
    return _Parts(Hdf5(folder / _WEIGHTS, _ATTRIBUTES), config, f"Keras {_version(metadata)} .keras, unpacked")


@contextmanager
def _open_zip(path: Path) -> Iterator[_Parts]:
    with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                config, metadata = (_text(archive, name) for name in (_CONFIG, _METADATA))
                unpacked = _unpack(archive, _member(archive, _WEIGHTS), Path(folder, "weights.h5"))
        except CheckpointFormatError:
            raise
        except BROKEN_ZIP as err:
            raise CheckpointFormatError(f"broken .keras file: {err}") from err
        yield _Parts(Hdf5(path, _ATTRIBUTES, unpacked), config, f"Keras {_version(metadata)} .keras")


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    if name not in archive.namelist():
        raise CheckpointFormatError(f"has no {name}, found {', '.join(archive.namelist()[:5])}: no .keras file")
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise CheckpointFormatError(f"{name} is encrypted")
    if info.header_offset + info.compress_size > os.path.getsize(archive.filename or ""):
        raise CheckpointFormatError(f"{name} is cut")
    if info.file_size > max(_CHUNK, _MAX_GROWTH * info.compress_size):
        raise CheckpointFormatError(f"{name} unpacks {info.compress_size} bytes to {info.file_size}: refused")
    return info


def _text(archive: zipfile.ZipFile, name: str) -> str:
    info = _member(archive, name)
    _check_size(name, info.file_size)
    return archive.read(info).decode("utf-8")


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


def _is_preset(folder: Path) -> bool:
    """Whether a folder is KerasHub's, whose config is none of Keras': its metadata say so, or it has none."""
    metadata = folder / _METADATA
    return not metadata.is_file() or b'"keras_hub_version"' in metadata.read_bytes()[:_CHUNK]
