"""HDF5 file, or a part of a file that is one -> Mapping of path -> TensorEntry, with nothing followed out of it.

h5py reads the structure; values that lie in one piece are mapped, not copied. What HDF5 may do beyond holding arrays is
refused: links to other files, data in other files, virtual datasets, filters from plugins, and sizes that the file
cannot hold.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t, h5z

from timm_effnet_ext.convert.tensors import TensorEntry
from timm_effnet_ext.errors import CheckpointFormatError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py raises about a damaged file, depending on the part of it.
_BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
_TYPES = (
    (h5t.IEEE_F32LE, "float32"), (h5t.IEEE_F64LE, "float64"), (h5t.IEEE_F16LE, "float16"),
    (h5t.STD_I64LE, "int64"), (h5t.STD_I32LE, "int32"), (h5t.STD_I16LE, "int16"), (h5t.STD_I8LE, "int8"),
    (h5t.STD_U64LE, "uint64"), (h5t.STD_U32LE, "uint32"), (h5t.STD_U16LE, "uint16"), (h5t.STD_U8LE, "uint8"),
)  # fmt: skip
_FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF)
MAX_GROWTH = 100  # weights hardly compress
_MAX_OBJECTS = 100_000  # L2, the largest architecture, with an optimizer has some 20,000
_MAX_RANK = 32


class Hdf5(Mapping[str, TensorEntry]):
    """The datasets of an open file by their paths, e.g. "model_weights/stem_conv/stem_conv/kernel:0".

    Raises:
        CheckpointFormatError: Whatever is wrong with the file, when it is met: opening, looking up or reading.
    """

    def __init__(self, file: h5py.File, path: Path, start: int = 0) -> None:
        self.path = path
        self._file, self._start = file, start
        self._datasets: dict[str, h5py.Dataset] = {}
        self._groups: list[str] = []
        with explained(path):
            self._list()

    def __getitem__(self, name: str) -> TensorEntry:
        dataset = self._datasets[name]
        with explained(self.path):
            kind, shape = _dtype(dataset), tuple(map(int, dataset.shape or ()))
        return TensorEntry(name, kind, shape, lambda: self._read(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)

    def groups(self) -> tuple[str, ...]:
        """Return the paths of all groups."""
        return tuple(self._groups)

    def text(self, attribute: str, group: str = "/") -> str | None:
        """Return an attribute that is one string, or None where there is none of that name."""
        with explained(self.path):
            value = self._file[group].attrs.get(attribute)
            if isinstance(value, bytes):
                value = value.decode("utf-8")
        if value is not None and not isinstance(value, str):
            raise CheckpointFormatError(f"{self.path}: attribute {attribute!r} is {type(value).__name__}, not text")
        return value

    def _list(self) -> None:
        """Find all groups and datasets; an object is met once, however many links lead to it."""

        def visit(name: str, link: Any) -> None:
            if not isinstance(link, h5py.HardLink):
                raise CheckpointFormatError(f"{self.path}: {name!r} is a link to somewhere else: refused")
            if len(self._datasets) + len(self._groups) >= _MAX_OBJECTS:
                raise CheckpointFormatError(f"{self.path}: more than {_MAX_OBJECTS} objects")
            found = self._file[name]
            if isinstance(found, h5py.Dataset):
                self._datasets[name] = found
            elif isinstance(found, h5py.Group):
                self._groups.append(name)

        self._file.visititems_links(visit)

    def _read(self, name: str) -> np.ndarray:
        dataset, what = self._datasets[name], f"{self.path}: {name!r}"
        with explained(self.path):
            kind = _dtype(dataset)
            if kind.startswith("?"):
                raise CheckpointFormatError(f"{what} holds {kind[1:]}, supported are {', '.join(n for _, n in _TYPES)}")
            if dataset.external or dataset.is_virtual:
                raise CheckpointFormatError(f"{what} keeps its values in other files: refused")
            array = self._values(dataset, what)
        if kind == "bfloat16":  # the upper half of a float32
            array = (array.view("<u2").astype("<u4") << 16).view("<f4")
        array.flags.writeable = False
        return array

    def _values(self, dataset: h5py.Dataset, what: str) -> np.ndarray:
        plist = dataset.id.get_create_plist()
        stored, need = dataset.id.get_storage_size(), math.prod(dataset.shape) * dataset.dtype.itemsize
        layout = plist.get_layout()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if not set(filters) <= set(_FILTERS):
            raise CheckpointFormatError(f"{what} passes through filters {filters}, supported are {_FILTERS}")
        if need > stored * (MAX_GROWTH if filters else 1):
            raise CheckpointFormatError(f"{what} of shape {dataset.shape} needs {need} bytes, the file has {stored}")
        if layout != h5d.CONTIGUOUS or not need:
            return np.asarray(dataset[()])
        at, end = self._start + dataset.id.get_offset(), os.path.getsize(self.path)
        if at + need > end:
            raise CheckpointFormatError(f"{what} needs {need} bytes at offset {at}, the file has {end}: it is cut")
        return np.memmap(self.path, dataset.dtype, "r", at, dataset.shape)


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: io.BufferedReader, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        count = self._file.readinto(view)
        self._at += count
        return count


@contextmanager
def open_hdf5(path: Path, start: int = 0, size: int | None = None) -> Iterator[Hdf5]:
    """Open a file, or its `size` bytes from `start` on.

    Raises:
        CheckpointFormatError: No HDF5, or a damaged one.
    """
    with path.open("rb") as raw:
        source: Any = path if size is None else _Window(raw, start, size)
        with explained(path):
            file = h5py.File(source, "r", **({"locking": False} if size is None else {}))
        try:
            yield Hdf5(file, path, start)
        finally:
            file.close()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what h5py raises about a file into our error."""
    try:
        yield
    except CheckpointFormatError:
        raise
    except _BROKEN as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        raise CheckpointFormatError(f"{path}: HDF5 is damaged or cut: {reason}") from err


def _dtype(dataset: h5py.Dataset) -> str:
    """Return TensorFlow's name of a dataset's type; one that no tensor has starts with "?"."""
    if dataset.shape is None or len(dataset.shape) > _MAX_RANK:
        return "?no array"
    kind = dataset.id.get_type()
    if "dtype" in dataset.attrs and dataset.attrs["dtype"] == "bfloat16" and kind.get_size() == 2:
        return "bfloat16"
    return next((name for known, name in _TYPES if kind == known), f"?{kind.dtype}")
