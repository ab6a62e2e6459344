"""HDF5 file -> Mapping of path -> TensorEntry, with nothing followed out of it.

h5py reads the structure, in a process of its own: HDF5 crashes or hangs on some damaged files. Values that lie in one
piece are mapped, not copied. What HDF5 may do beyond holding arrays is refused: links and data in other files, virtual
datasets, filters from plugins, and sizes that the file cannot hold.
"""

from __future__ import annotations

import json
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry, widened
from timm_effnet_ext.errors import CheckpointFormatError, located

# What h5py raises about a damaged file, depending on the part of it.
_BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
_TYPES = (
    (h5t.IEEE_F32LE, "float32"), (h5t.IEEE_F64LE, "float64"), (h5t.IEEE_F16LE, "float16"),
    (h5t.STD_I64LE, "int64"), (h5t.STD_I32LE, "int32"), (h5t.STD_I16LE, "int16"), (h5t.STD_I8LE, "int8"),
    (h5t.STD_U64LE, "uint64"), (h5t.STD_U32LE, "uint32"), (h5t.STD_U16LE, "uint16"), (h5t.STD_U8LE, "uint8"),
)  # fmt: skip
_BFLOAT16 = "bfloat16"
_NUMPY = {name: kind.dtype for kind, name in _TYPES} | {_BFLOAT16: np.dtype("<u2")}
_FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF)
MAX_GROWTH = 100  # weights hardly compress
_MAX_OBJECTS = 100_000  # L2, the largest architecture, with an optimizer has some 20,000
_MAX_RANK = 32
_OK, _REFUSED = b"+", b"-"  # begin what the process of its own answers


class _Dataset(NamedTuple):
    """Where and how a dataset lies in the file; `offset` is None for one that is not in one piece."""

    dtype: str
    shape: Sequence[int]
    offset: int | None
    problem: str | None  # why it cannot be read


class Hdf5(Mapping[str, TensorEntry]):
    """The datasets of a file by their paths, e.g. "model_weights/stem_conv/stem_conv/kernel:0".

    `attributes` are the names of those that `text` can give. Where the file is a member of the archive `path`,
    `unpacked` is where its bytes lie.

    Raises:
        CheckpointFormatError: Whatever is wrong with the file, when it is met: opening or reading.
    """

    def __init__(self, path: Path, attributes: Sequence[str] = (), unpacked: Path | None = None) -> None:
        self.path = path
        self._file = unpacked or path
        found = json.loads(isolated(lambda: _describe(self._file, attributes)))
        self._texts: dict[str, dict[str, str]] = found["texts"]
        self._datasets = {name: _Dataset(*fields) for name, fields in found["datasets"].items()}
        self._bytes = np.memmap(self._file, np.uint8, "r")

    def __getitem__(self, name: str) -> TensorEntry:
        dataset = self._datasets[name]
        return TensorEntry(name, dataset.dtype, tuple(dataset.shape), self.path, lambda: self._read(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)

    def text(self, attribute: str, group: str = "") -> str | None:
        """Return an attribute that is one string, or None where there is none of that name."""
        return self._texts.get(group, {}).get(attribute)

    def _read(self, name: str) -> np.ndarray:
        dataset = self._datasets[name]
        if dataset.problem:
            raise CheckpointFormatError(f"{name!r} {dataset.problem}")
        kind, shape = _NUMPY[dataset.dtype], tuple(dataset.shape)
        need = math.prod(shape) * kind.itemsize
        if dataset.offset is None:
            with located(repr(name)):
                data = np.frombuffer(isolated(lambda: _values(self._file, name)), np.uint8)
        else:
            data = self._bytes[dataset.offset : dataset.offset + need]
        if len(data) != need:
            raise CheckpointFormatError(
                f"{name!r} of shape {shape} needs {need} bytes, the file has {len(data)}: it is cut"
            )
        array = data.view(kind).reshape(shape)
        return widened(array) if dataset.dtype == _BFLOAT16 else array


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for as long as the block runs; what h5py raises about it becomes our error."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except CheckpointFormatError:
        raise
    except _BROKEN as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        raise CheckpointFormatError(f"HDF5 is damaged or cut: {reason}") from err


def _describe(path: Path, attributes: Sequence[str]) -> bytes:
    """Return datasets and texts as JSON; links to elsewhere and groups inside themselves are refused."""
    datasets: dict[str, _Dataset] = {}
    with _opened(path) as file:
        root = file["/"].id
        texts = {"": _texts(root, attributes)}
        seen: set[int] = set()
        waiting = [("", root)]
        while waiting:
            where, group = waiting.pop()
            for key in group:
                name = where + key.decode("utf-8")
                if group.links.get_info(key).type != h5l.TYPE_HARD:
                    raise CheckpointFormatError(f"{name!r} is a link to somewhere else: refused")
                found = h5o.open(group, key)
                if isinstance(found, h5d.DatasetID):
                    datasets[name] = _dataset(found)
                elif isinstance(found, h5g.GroupID):
                    address = h5o.get_info(found).addr
                    if address in seen:
                        raise CheckpointFormatError(f"group {name!r} is in two places")
                    seen.add(address)
                    texts[name] = _texts(found, attributes)
                    waiting.append((f"{name}/", found))
                if len(datasets) + len(seen) > _MAX_OBJECTS:
                    raise CheckpointFormatError(f"more than {_MAX_OBJECTS} objects")
    return json.dumps({"texts": texts, "datasets": datasets}).encode()


def _texts(group: h5g.GroupID, attributes: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in attributes:
        if h5a.exists(group, name.encode()):
            value = h5py.AttributeManager(h5py.Group(group))[name]
            value = value.decode("utf-8") if isinstance(value, bytes) else value
            if isinstance(value, str):
                found[name] = value
    return found


def _dataset(dataset: h5d.DatasetID) -> _Dataset:
    """Describe one dataset; what is wrong with it matters only to whoever reads it."""
    if dataset.get_space().get_simple_extent_type() == h5s.NULL or dataset.rank > _MAX_RANK:
        return _Dataset("none", (), None, "holds no array")
    kind, shape = dataset.get_type(), tuple(map(int, dataset.shape))
    dtype = next((name for known, name in _TYPES if kind == known), None)
    # Keras 3 says bfloat16 beside the bytes, as HDF5 has no such type.
    if dtype is None and kind.get_size() == 2 and h5a.exists(dataset, b"dtype"):
        dtype = _BFLOAT16 if h5py.AttributeManager(h5py.Dataset(dataset))["dtype"] == _BFLOAT16 else None
    plist, shown = dataset.get_create_plist(), dtype or str(kind.dtype)
    offset = dataset.get_offset() if plist.get_layout() == h5d.CONTIGUOUS else None
    return _Dataset(shown, shape, offset, _problem(plist, shown, shape, dataset.get_storage_size()))


def _problem(plist: h5py.h5p.PropDCID, dtype: str, shape: Sequence[int], stored: int) -> str | None:
    """Return why the values of a dataset cannot be read, None where they can."""
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if dtype not in _NUMPY:
        return f"is of type {dtype}, supported are {', '.join(_NUMPY)}"
    if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
        return "keeps its values in other files: refused"
    if not filters <= set(_FILTERS):
        return f"passes through filters {sorted(filters)}, supported are {_FILTERS}"
    if math.prod(shape) * _NUMPY[dtype].itemsize > stored * (MAX_GROWTH if filters else 1):
        return f"of shape {shape} cannot be in the {stored} bytes that the file has for it"
    return None


def _values(path: Path, name: str) -> bytes:
    """Return the bytes of a dataset that is in pieces, compressed perhaps, or in the header."""
    with _opened(path) as file:
        return np.asarray(file[name][()]).tobytes()


def isolated(call: Callable[[], bytes], cpu_seconds: int = 5) -> bytes:
    """Return what `call` returns, run in a process of its own: a C library that crashes or hangs is an error here.

    The process is a fork, which costs milliseconds; where there is no fork (Windows) the call runs in this process.
    Its errors come back as texts, so what file they are about is put before them on this side.

    Raises:
        CheckpointFormatError: `call` raised it, or it crashed, or took more than `cpu_seconds` of processor time.
    """
    if not hasattr(os, "fork"):
        return call()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads, whose locks a fork might find held; `call` uses no threads and no locks of others.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        _run(call, writer, cpu_seconds)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    kind, payload = answer[:1], answer[1:]
    if status == 0 and kind == _OK:
        return payload
    if kind == _REFUSED:
        raise CheckpointFormatError(payload.decode("utf-8", "replace"))
    is_hang = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    raise CheckpointFormatError(f"the library that reads it {'hangs' if is_hang else 'crashed'}: it is damaged")


def _run(call: Callable[[], bytes], writer: int, cpu_seconds: int) -> None:
    """Send the result through the pipe and end the process, whatever happens."""
    code = 1
    try:
        import faulthandler
        import resource

        faulthandler.disable()  # a crash is reported by us
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answer = _OK + call()
        except CheckpointFormatError as err:
            answer = _REFUSED + str(err).encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
        code = 0
    finally:
        os._exit(code)
