"""A Keras file on disk, whichever of its formats -> an open Checkpoint.

.keras          zip of config.json, metadata.json and model.weights.h5 (Keras 3, and Keras 2 from 2.12 on)
.weights.h5     the last of them alone: no config
.h5             whole model with the config as an attribute, or weights only (Keras 2, tf_keras; legacy in Keras 3)
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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from timm_effnet_ext.arch import ARCHS
from timm_effnet_ext.convert.checkpoint import Checkpoint
from timm_effnet_ext.convert.hdf5 import SIGNATURE, Hdf5, open_hdf5
from timm_effnet_ext.convert.identify import identify
from timm_effnet_ext.convert.keras_config import LayerGraph, parse_config
from timm_effnet_ext.convert.keras_config import Path as LayerPath
from timm_effnet_ext.convert.keras_dialects import KERAS_DIALECTS
from timm_effnet_ext.convert.keras_front import assumed, preprocessing
from timm_effnet_ext.convert.keras_graph import evaluate
from timm_effnet_ext.convert.keras_model import head, model_args, wrong_paddings
from timm_effnet_ext.convert.keras_weights import KerasWeights, read_weights
from timm_effnet_ext.convert.variables import Variables
from timm_effnet_ext.errors import CheckpointFormatError, VerificationError, first_few

_SUFFIXES = (".keras", ".h5", ".hdf5")
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MAX_CONFIG = 64 << 20  # bytes of JSON; EfficientNetV2-L has 0.6 MB
_MAX_GROWTH = 100  # of a compressed member
_CHUNK = 1 << 20
_EVEN = 224  # every stage of every architecture sees an even size

_NO_GRAPH = "the file has no layer graph: nothing in it can be compared with"
_ASSUMED = "the file has no config: mean and std are what keras.applications puts in front of this architecture"
_UNSAID = "the file says no preprocessing: mean and std are those of the architecture's pretrained weights"
_EVEN_ONLY = (
    "the graph was built without a size and pads for even ones, at odd ones not as TensorFlow's SAME does, with which "
    "its weights were trained and which the converted model has: input_size {}x{} became {}x{}, where both agree"
)
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


class _Parts(NamedTuple):
    """What every format comes down to."""

    weights: Hdf5
    config: str | None
    format: str


def is_keras(path: str | Path) -> bool:
    """Whether a path is a file that `open_keras` is for, told by its first bytes or its suffix."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix in _SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(len(SIGNATURE))
    return start == SIGNATURE or (start[:2] == b"PK" and _is_keras_zip(path))


@contextmanager
def open_keras(path: str | Path, *, crc: bool = True) -> Iterator[Checkpoint]:
    """Open a Keras file; its tensors can be read as long as it is open. `crc` checks the whole of a zip first.

    Raises:
        CheckpointFormatError: no Keras file, or a damaged one.
        NameMappingError: a model with layers that no timm EfficientNet has.
    """
    path = Path(path)
    with _open_parts(path, crc) as parts:
        graph = parse_config(parts.config, str(path)) if parts.config is not None else None
        weights = read_weights(parts.weights, graph)
        yield _checkpoint(path, parts.format, graph, weights)


def _checkpoint(path: Path, kind: str, graph: LayerGraph | None, weights: KerasWeights) -> Checkpoint:
    variables = weights.variables()
    make = partial(Checkpoint, path=path, framework="keras", format=kind, files=(path,), variables=variables)
    if graph is None:
        found = _assumed(variables, weights)
        return make(preprocessing=found, notes=(_NO_GRAPH, _ASSUMED if found else _UNSAID))
    what = str(path)
    end = head(graph, what)
    found = preprocessing(graph, weights.layers, what)
    notes = [] if "mean" in found else [_UNSAID]
    size = found.get("input_size", (0, *_default_size(variables)))
    if wrong_paddings(graph, *size[1:]):
        found["input_size"] = (graph.input_shape[2] or 3, *(max(32, round(n / 32) * 32) for n in size[1:]))
        notes.append(_EVEN_ONLY.format(*size[1:], *found["input_size"][1:]))
    return make(
        preprocessing=found,
        model_args=model_args(graph, end.pool, what),
        activation=end.activation,
        notes=tuple(notes),
        graph=partial(_evaluate, graph, weights, end.logits),
    )


def _evaluate(graph: LayerGraph, weights: KerasWeights, output: LayerPath, images: np.ndarray) -> np.ndarray:
    """Evaluate the graph at a size for which its paddings were made."""
    wrong = wrong_paddings(graph, *images.shape[1:3])
    if wrong:
        raise VerificationError(
            f"the graph was built for images of another size than {images.shape[1:3]}: {first_few(wrong)} pad otherwise"
        )
    return evaluate(graph, weights.layers, images, output)


def _archs(variables: Variables) -> set[str]:
    """Return the architectures that the variables fit, for what a file does not say of itself."""
    shapes = {name: entry.shape for name, entry in variables.model.items()}
    return {candidate.match.arch_name for candidate in identify(shapes, KERAS_DIALECTS)}


def _assumed(variables: Variables, weights: KerasWeights) -> dict[str, Any]:
    found = [assumed(arch, weights.layers) for arch in _archs(variables)]
    return found[0] if found and all(one == found[0] for one in found) else {}


def _default_size(variables: Variables) -> tuple[int, int]:
    sizes = {ARCHS[arch].eval_size for arch in _archs(variables)}
    return (size := sizes.pop() if len(sizes) == 1 else _EVEN), size


@contextmanager
def _open_parts(path: Path, crc: bool) -> Iterator[_Parts]:
    if not path.is_file():
        raise CheckpointFormatError(f"{path}: no such file")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    with _open_zip(path, crc) if is_zip else _open_h5(path) as parts:
        yield parts


@contextmanager
def _open_h5(path: Path) -> Iterator[_Parts]:
    with open_hdf5(path) as file:
        version, config = file.text("keras_version"), file.text("model_config")
        if version is None and "model_weights" in file.groups():
            version = file.text("keras_version", "model_weights")
        kind = ".weights.h5" if version is None else ".h5, whole model" if config else ".h5, weights only"
        yield _Parts(file, config, f"Keras {version or 3} {kind}")


@contextmanager
def _open_zip(path: Path, crc: bool) -> Iterator[_Parts]:
    with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                config, metadata = (_text(archive, name, path) for name in (_CONFIG, _METADATA))
                info = _member(archive, _WEIGHTS, path)
                if info.compress_type == zipfile.ZIP_STORED:
                    where: tuple[Path, int, int | None] = path, _start(path, info, crc), info.file_size
                else:
                    where = _unpack(archive, info, Path(folder, "weights.h5"), path), 0, None
        except _BROKEN_ZIP as err:
            if isinstance(err, CheckpointFormatError):
                raise
            raise CheckpointFormatError(f"{path}: broken .keras file: {err}") from err
        with open_hdf5(*where) as file:
            yield _Parts(file, config, f"Keras {_version(metadata)} .keras")


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> zipfile.ZipInfo:
    if name not in archive.namelist():
        raise CheckpointFormatError(f"{path}: has no {name}, found {', '.join(archive.namelist()[:5])}: no .keras file")
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise CheckpointFormatError(f"{path}: {name} is encrypted")
    if info.file_size > max(_CHUNK, _MAX_GROWTH * info.compress_size):
        raise CheckpointFormatError(f"{path}: {name} unpacks {info.compress_size} bytes to {info.file_size}: refused")
    return info


def _text(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    info = _member(archive, name, path)
    if info.file_size > _MAX_CONFIG:
        raise CheckpointFormatError(f"{path}: {name} has {info.file_size} bytes, at most {_MAX_CONFIG} are expected")
    return archive.read(info).decode("utf-8")


def _start(path: Path, info: zipfile.ZipInfo, crc: bool) -> int:
    """Return where a stored member's bytes begin, after checking them."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if header[:4] != b"PK\3\4":
            raise CheckpointFormatError(f"{path}: no member at offset {info.header_offset}")
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))  # lengths
        start = info.header_offset + 30 + name + extra
        if start + info.file_size > os.path.getsize(path):
            raise CheckpointFormatError(f"{path}: {info.filename} is cut")
        if crc:
            file.seek(start)
            left, found = info.file_size, 0
            while left:
                chunk = file.read(min(left, _CHUNK))
                found, left = zlib.crc32(chunk, found), left - len(chunk)
            if found != info.CRC:
                raise CheckpointFormatError(f"{path}: {info.filename} has a wrong checksum: the file is damaged")
    return start


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, path: Path) -> Path:
    with archive.open(info) as packed, target.open("wb") as out:
        shutil.copyfileobj(packed, out, _CHUNK)  # checks the checksum at the end
    return target


def _version(metadata: str) -> str:
    version = json.loads(metadata).get("keras_version") if metadata.startswith("{") else None
    return version if isinstance(version, str) else "3"


def _is_keras_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {_CONFIG, _METADATA} <= set(archive.namelist())
    except _BROKEN_ZIP:
        return False
