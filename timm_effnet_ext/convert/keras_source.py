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
from timm_effnet_ext.convert.hdf5 import SIGNATURE, Hdf5
from timm_effnet_ext.convert.identify import identify
from timm_effnet_ext.convert.keras_config import LayerGraph, parse_config
from timm_effnet_ext.convert.keras_config import Path as LayerPath
from timm_effnet_ext.convert.keras_dialects import KERAS_DIALECTS
from timm_effnet_ext.convert.keras_front import RESIZING, assumed, preprocessing
from timm_effnet_ext.convert.keras_graph import check_kinds, evaluate
from timm_effnet_ext.convert.keras_model import has_paddings, head, model_args, wrong_paddings
from timm_effnet_ext.convert.keras_weights import CLASSIFIER, LAYER_NAME, KerasWeights, read_weights
from timm_effnet_ext.convert.variables import Variables
from timm_effnet_ext.errors import CheckpointFormatError, VerificationError, first_few

_SUFFIXES = (".keras", ".h5", ".hdf5")
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_VERSION, _MODEL_CONFIG = "keras_version", "model_config"
_ATTRIBUTES = (_VERSION, _MODEL_CONFIG, LAYER_NAME)
_MAX_CONFIG = 64 << 20  # bytes of JSON; EfficientNetV2-L has 0.6 MB
_MAX_GROWTH = 100  # of a compressed member
_CHUNK = 1 << 20
_STRIDE = 32  # of the whole network: at its multiples every stage sees an even size
_EVEN = 224

_IMAGENET_CLASSES = 1000

_NO_GRAPH = "the file has no layer graph: nothing in it can be compared with"
_ASSUMED = "the file has no config: mean and std are what keras.applications puts in front of this architecture"
_UNSAID = "the file says no preprocessing: mean and std are those of the architecture's pretrained weights"
_RESIZED = "the classifier is the user's: images are resized whole, as Keras' image_dataset_from_directory does"
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
        yield keras_checkpoint(path, parts.format, (path,), graph, weights)


def keras_checkpoint(
    path: Path, kind: str, files: tuple[Path, ...], graph: LayerGraph | None, weights: KerasWeights
) -> Checkpoint:
    """Return what a file's layers and weights come to, whatever its format."""
    variables = weights.variables()
    make = partial(Checkpoint, path=path, framework="keras", format=kind, files=files, variables=variables)
    kernel = variables.model.get(f"{CLASSIFIER}/kernel")
    is_own = kernel is not None and kernel.shape[-1] != _IMAGENET_CLASSES
    resizing, notes = (RESIZING, [_RESIZED]) if is_own else ({}, [])
    if graph is None:
        found = _assumed(variables, weights)
        return make(preprocessing={**resizing, **found}, notes=(_NO_GRAPH, _ASSUMED if found else _UNSAID, *notes))
    what = str(path)
    check_kinds(graph, what)
    end = head(graph, what)
    found = preprocessing(graph, weights.layers, what)
    if "mean" not in found:
        notes.append(_UNSAID)
    if has_paddings(graph):
        channels, *size = found.get("input_size") or (graph.input_shape[2] or 3, *_default_size(variables))
        if wrong_paddings(graph, *size):
            found["input_size"] = (channels, *(max(_STRIDE, round(n / _STRIDE) * _STRIDE) for n in size))
            notes.append(_EVEN_ONLY.format(*size, *found["input_size"][1:]))
    if "input_size" in found:
        found["test_input_size"] = found["input_size"]
    return make(
        preprocessing={**resizing, **found},
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
        target, start, size = where
        file = Hdf5(target, _ATTRIBUTES, start=start, size=size)
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
