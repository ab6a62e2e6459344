"""A Keras file on disk, whichever of its formats -> an open Checkpoint.

    .keras          zip of config.json, metadata.json and model.weights.h5 (Keras 3, and Keras 2 from 2.12 on)
    folder          of these three: `model.save` with `zipped=False`, as Keras saves to `hf://USER/REPO`
    .weights.h5     the last of them alone: no config
    preset          of KerasHub, a folder of config.json and model.weights.h5, with task.json and others
    .h5             whole model with the config as an attribute, or weights only (Keras 2, tf_keras; legacy in Keras 3)

hdf5.py reads the tensors, weights.py sorts them, config.py reads the layers; `keras_checkpoint` says what they come to.
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
from typing import TYPE_CHECKING

import numpy as np

from timm_effnet_ext.arch.rows import Arch
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Statement
from timm_effnet_ext.convert.readers.keras.config import parse_config
from timm_effnet_ext.convert.readers.keras.front import RESIZING, assumed, preprocessing, unlike_timms
from timm_effnet_ext.convert.readers.keras.head import head, model_args, with_one_classifier
from timm_effnet_ext.convert.readers.keras.interpreter import KerasGraph, check_kinds, without_droppings
from timm_effnet_ext.convert.readers.keras.layer_graph import LayerGraph, sensible
from timm_effnet_ext.convert.readers.keras.weights import LAYER_NAME, KerasWeights, read_weights
from timm_effnet_ext.errors import CheckpointFormatError, first_few, located
from timm_effnet_ext.files.hub_format import MULTI_LABEL, SINGLE_LABEL

if TYPE_CHECKING:
    from timm_effnet_ext.convert.readers.keras.hdf5 import Hdf5

MEMBERS = "config.json", "metadata.json", "model.weights.h5"
"""What a `.keras` archive holds, and a folder in its place."""

# What Python's zipfile raises over a damaged archive.
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = (".keras", ".h5", ".hdf5")
_CONFIG, _METADATA, _WEIGHTS = MEMBERS
_TASK, _TASK_WEIGHTS = "task.json", "task.weights.h5"
_PREPROCESSOR, _CONVERTER = "preprocessor.json", "image_converter.json"
_OF_PRESET = (_CONFIG, _WEIGHTS, _TASK, _TASK_WEIGHTS, _PREPROCESSOR, _CONVERTER)
_VERSION, _MODEL_CONFIG = "keras_version", "model_config"
_ATTRIBUTES = (_VERSION, _MODEL_CONFIG, LAYER_NAME)
_MAX_CONFIG = 64 << 20  # bytes of JSON; EfficientNetV2-L has 0.6 MB
_MAX_GROWTH = 100  # of a compressed member
_CHUNK = 1 << 20
_IMAGENET_CLASSES = 1000

_GRAPH = "the file's layers"
_APPLICATIONS = "assumed, as keras.applications puts it in front of this architecture"
_LOADER = "assumed, as Keras' image_dataset_from_directory resizes for a classifier of one's own"
_NO_GRAPH = "the file has no layer graph of the network: nothing in it can be compared with"
_UNSAID = (
    "the file has no layers that scale images: keras.applications documents -1 … 1 for V2 without preprocessing layers"
)
_PROBLEMS = {"softmax": SINGLE_LABEL, "sigmoid": MULTI_LABEL}


def is_keras(path: Path) -> bool:
    """Whether a path is what `open_keras` is for: HDF5, a `.keras` archive, or a folder with the same files."""
    if not path.is_file():
        return all((path / name).is_file() for name in (_CONFIG, _WEIGHTS))
    if not _is_zip(path):
        with path.open("rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    try:
        with zipfile.ZipFile(path) as archive:
            return {_CONFIG, _METADATA} <= set(archive.namelist())
    except _BROKEN_ZIP:
        return False


def is_called_keras(path: Path) -> bool:
    """Whether a file has a name of Keras': damaged perhaps, as `open_keras` will say."""
    return path.is_file() and path.suffix in _SUFFIXES


@contextmanager
def open_keras(path: str | Path) -> Iterator[Checkpoint]:
    """Open a Keras file; its tensors can be read as long as it is open.

    Raises:
        CheckpointFormatError: No Keras file, or a damaged one.
        NameMappingError: A model with layers that no timm EfficientNet has.
    """
    path = Path(path)
    if path.is_dir():
        yield _preset(path) if _is_preset(path) else _unpacked(path)
    elif _is_zip(path):
        with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
            yield _packed(path, Path(folder, "weights.h5"))
    else:
        yield _h5(path)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _preset(folder: Path) -> Checkpoint:
    """Return what KerasHub's `save_to_preset` wrote: a backbone, and a task's head and preprocessor beside it."""
    there = {name: folder / name for name in _OF_PRESET if (folder / name).is_file()}
    texts = {name: _beside(path) for name, path in there.items() if path.suffix == ".json"}
    preprocessor = texts.get(_PREPROCESSOR) or texts.get(_CONVERTER)
    graph = parse_config(texts.get(_TASK) or texts[_CONFIG], preprocessor)
    weights = KerasWeights()
    for name in (_WEIGHTS, _TASK_WEIGHTS):
        if name in there:
            with located(there[name]):
                part = read_weights(_hdf5(there[name]), graph)
            weights.layers.update(part.layers)
            weights.slots.update(part.slots)
            weights.counters.update(part.counters)
    return keras_checkpoint(folder, "KerasHub preset", tuple(there.values()), graph, weights)


def _beside(path: Path) -> str:
    with located(path):
        _check_size(path.name, path.stat().st_size)
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as err:
            raise CheckpointFormatError(f"the model config is no usable JSON: {err}") from err


def _hdf5(path: Path, unpacked: Path | None = None) -> Hdf5:
    from timm_effnet_ext.convert.readers.keras.hdf5 import Hdf5  # h5py is slow to import

    return Hdf5(path, _ATTRIBUTES, unpacked)


def _h5(path: Path) -> Checkpoint:
    file = _hdf5(path)
    version, config = file.text(_VERSION) or file.text(_VERSION, "model_weights"), file.text(_MODEL_CONFIG)
    kind = ".weights.h5" if version is None else ".h5, whole model" if config else ".h5, weights only"
    return _checkpoint(path, f"Keras {version or 3} {kind}", (path,), config, file)


def _unpacked(folder: Path) -> Checkpoint:
    config, metadata = (_beside(folder / name) for name in (_CONFIG, _METADATA))
    files = tuple(folder / name for name in MEMBERS)
    return _checkpoint(folder, f"Keras {_version(metadata)} .keras, unpacked", files, config, _hdf5(folder / _WEIGHTS))


def _packed(path: Path, unpacked: Path) -> Checkpoint:
    """Return what a `.keras` archive holds, whose weights are written to `unpacked`."""
    try:
        with zipfile.ZipFile(path) as archive:
            config, metadata = (_text(archive, name) for name in (_CONFIG, _METADATA))
            with archive.open(_member(archive, _WEIGHTS)) as packed, unpacked.open("wb") as out:
                shutil.copyfileobj(packed, out, _CHUNK)  # checks the checksum at the end
    except CheckpointFormatError:
        raise
    except _BROKEN_ZIP as err:
        raise CheckpointFormatError(f"broken .keras file: {err}") from err
    return _checkpoint(path, f"Keras {_version(metadata)} .keras", (path,), config, _hdf5(path, unpacked))


def _checkpoint(path: Path, kind: str, files: tuple[Path, ...], config: str | None, weights: Hdf5) -> Checkpoint:
    graph = parse_config(config) if config is not None else None
    return keras_checkpoint(path, kind, files, graph, read_weights(weights, graph))


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


def keras_checkpoint(
    path: Path, kind: str, files: tuple[Path, ...], graph: LayerGraph | None, weights: KerasWeights
) -> Checkpoint:
    """Return what a file's layers and weights come to, whatever its format."""
    make = partial(Checkpoint, path, "keras", kind, files)
    if graph is None:
        return make(weights.variables(), habits=partial(_habits, weights), notes=(_NO_GRAPH,))
    graph, dropped = without_droppings(graph, weights.layers.keys())
    with sensible(), np.errstate(all="ignore"):  # numbers that are not finite are refused where they are said
        end = head(graph)
        check_kinds(graph, end.features)
        found = preprocessing(graph, weights.layers)
        args = model_args(graph, end.pool)
        whole = with_one_classifier(weights, end.dense)
    said = Statement(_GRAPH, model_args=args, preprocessing=found, problem_type=_PROBLEMS.get(end.activation or ""))
    has_mean = "mean" in found
    folded = [f"{first_few(node.name for node in end.dense)} were folded into one classifier"] if whole.folded else []
    is_whole = graph.network is None
    unsaid = [*([] if has_mean else [_UNSAID]), *([] if is_whole else [_NO_GRAPH])]
    return make(
        whole.variables(),
        statements=(said,),
        habits=partial(_habits, None),
        notes=(*dropped, *folded, *unsaid, *unlike_timms(graph)),
        graph=KerasGraph(graph, weights.layers, end.logits, end.features, has_mean) if is_whole else None,
        problem=end.problem,
    )


def _habits(weights: KerasWeights | None, arch: Arch, num_classes: int) -> tuple[Statement, ...]:
    """Return how users of Keras prepare images; `weights` are those of a file without config, which may hold a mean."""
    found = assumed(arch.name, weights.layers) if weights is not None else {}
    is_own = num_classes not in (0, _IMAGENET_CLASSES)
    said = (Statement(_APPLICATIONS, preprocessing=found), Statement(_LOADER, preprocessing=RESIZING if is_own else {}))
    return tuple(statement for statement in said if statement.preprocessing)
