"""TensorFlow tensor bundle (checkpoint V2) -> Mapping of name -> TensorEntry, memory-mapped.

    PREFIX.index                  a table (sstable.py): "" -> BundleHeaderProto, NAME -> BundleEntryProto
    PREFIX.data-00000-of-00001    the tensors' bytes, one file a shard

An entry says dtype, shape, shard, offset, size and masked CRC-32C. A partitioned variable has an entry without bytes
that lists its slices; the bytes of a slice have an entry of their own under an encoded key. Strings are stored as
varint lengths | masked CRC-32C of the lengths (uint32) | the bytes.
Spec: tensorflow/core/util/tensor_bundle/{tensor_bundle.h,naming.h}; the messages are entries.py's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import google_crc32c
import numpy as np

from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry, widened
from timm_effnet_ext.convert.readers.tensorflow.entries import FULL, BundleEntry, Slice, decode_entry, num_shards
from timm_effnet_ext.convert.readers.tensorflow.protowire import take, text, varint
from timm_effnet_ext.convert.readers.tensorflow.sstable import mask, masked_crc, read_table
from timm_effnet_ext.errors import CheckpointFormatError, located

STRING, BOOL, BFLOAT16 = 7, 10, 14
# DataType of tensorflow/core/framework/types.proto: code -> (name, numpy dtype of the bytes on disk)
DTYPES = {
    1: ("float32", "<f4"), 2: ("float64", "<f8"), 3: ("int32", "<i4"), 4: ("uint8", "|u1"), 5: ("int16", "<i2"),
    6: ("int8", "|i1"), STRING: ("string", "|u1"), 8: ("complex64", "<c8"), 9: ("int64", "<i8"), BOOL: ("bool", "|u1"),
    11: ("qint8", "|i1"), 12: ("quint8", "|u1"), 13: ("qint32", "<i4"), BFLOAT16: ("bfloat16", "<u2"),
    15: ("qint16", "<i2"), 16: ("quint16", "<u2"), 17: ("uint16", "<u2"), 18: ("complex128", "<c16"),
    19: ("float16", "<f2"), 22: ("uint32", "<u4"), 23: ("uint64", "<u8"),
}  # fmt: skip
_REFUSED = {20: "resource", 21: "variant", 24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4"}


class Bundle(Mapping[str, TensorEntry]):
    """The tensors of one checkpoint; opening reads the index only, a tensor's bytes are touched by `read()`.

    Raises:
        CheckpointFormatError: Whatever is wrong with the files, when it is met: opening, looking up or reading.
    """

    def __init__(self, prefix: str | Path, *, crc: bool = True) -> None:
        self.prefix = Path(prefix)
        self.crc = crc
        self.index_file = index_file(self.prefix)
        self._raw: dict[str, bytes] = {}
        self._slices: dict[bytes, bytes] = {}
        header = None
        with located(self.index_file):
            if not self.index_file.is_file():
                raise CheckpointFormatError("no such file")
            for key, value in read_table(self.index_file.read_bytes()):
                if not key:
                    header = value
                elif key[0] == 0:
                    self._slices[key] = value
                else:
                    with located("a tensor's name"):
                        self._raw[text(key)] = value
            if header is None:
                raise CheckpointFormatError("no bundle header: a table, but not of tensors")
            with located("header"):
                self.num_shards = num_shards(header)

    def __getitem__(self, name: str) -> TensorEntry:
        entry = self._entry(name)
        if entry.dtype not in DTYPES:
            found = _REFUSED.get(entry.dtype, "unknown")
            supported = ", ".join(kind for kind, _ in DTYPES.values())
            raise CheckpointFormatError(f"{name!r} has dtype {entry.dtype} ({found}), supported are {supported}")
        return TensorEntry(name, DTYPES[entry.dtype][0], entry.shape, self.index_file, lambda: self._read(name, entry))

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def is_copy(self, name: str, other: str) -> bool:
        """Whether two tensors hold the same, told by type, shape, size and checksum without reading them."""
        one, two = map(self._entry, (name, other))
        return not one.slices and one._replace(shard=0, offset=0) == two._replace(shard=0, offset=0)

    def shard_file(self, shard: int) -> Path:
        """Return the path of a data file; it is made of the prefix and two numbers, never of file contents."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.num_shards:05d}")

    def files(self) -> tuple[Path, ...]:
        """Return the index and every data file."""
        return self.index_file, *map(self.shard_file, range(self.num_shards))

    def _entry(self, name: str) -> BundleEntry:
        with located(repr(name)):
            return decode_entry(self._raw[name])

    def _size(self, shard: int) -> int:
        """Return how many bytes a data file has."""
        path = self.shard_file(shard)
        if not path.is_file():
            raise CheckpointFormatError(f"no such file; the index says {self.num_shards} data file(s)")
        return path.stat().st_size

    def _bytes(self, name: str, entry: BundleEntry) -> np.ndarray:
        """Return a tensor's bytes, inside the file for sure; alone they are mapped, as the file may be too large."""
        if not 0 <= entry.shard < self.num_shards:
            raise CheckpointFormatError(f"{name!r} is in data file {entry.shard}, expected 0 to {self.num_shards - 1}")
        file = self.shard_file(entry.shard)
        with located(file):
            size = self._size(entry.shard)
            if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > size:
                raise CheckpointFormatError(
                    f"{name!r} needs {entry.size} bytes at offset {entry.offset}, the file has {size}: it is cut or "
                    "belongs to another index"
                )
        if not entry.size:  # which cannot be mapped
            return np.empty(0, np.uint8)
        return np.memmap(file, np.uint8, "r", entry.offset, (entry.size,))

    def _read(self, name: str, entry: BundleEntry) -> np.ndarray:
        if entry.slices:
            return self._assemble(name, entry)
        raw = self._bytes(name, entry)
        if entry.dtype == STRING:
            with located(repr(name)):
                return self._strings(name, raw.tobytes(), entry)
        dtype = np.dtype(DTYPES[entry.dtype][1])
        need = math.prod(entry.shape) * dtype.itemsize
        if entry.size != need:
            raise CheckpointFormatError(f"{name!r} of shape {entry.shape} has {entry.size} bytes, expected {need}")
        if self.crc:
            self._check(name, mask(google_crc32c.value(raw)), entry)
        if entry.dtype == BFLOAT16:
            return widened(raw.view(dtype)).reshape(entry.shape)
        if entry.dtype == BOOL:
            return (raw != 0).reshape(entry.shape)
        return raw.view(dtype).reshape(entry.shape)

    def _assemble(self, name: str, whole: BundleEntry) -> np.ndarray:
        """Return a partitioned variable in one array; its slices must tile it."""
        if whole.dtype == STRING:
            raise CheckpointFormatError(f"{name!r} is a partitioned string tensor, which is not supported")
        with located(repr(name)):
            parts = [(part, self._part(name, whole, part)) for part in whole.slices]
        need = math.prod(whole.shape) * np.dtype(DTYPES[whole.dtype][1]).itemsize
        stored = sum(len(self._bytes(name, entry)) for _, entry in parts)
        on_disk = sum(self._size(shard) for shard in {entry.shard for _, entry in parts})
        if stored != need or stored > on_disk:
            raise CheckpointFormatError(f"{name!r}: {len(parts)} slices of {stored} bytes in all, expected {need}")
        out: np.ndarray | None = None
        filled = np.zeros(whole.shape, bool)
        for part, entry in parts:
            values = self._read(f"{name}, slice {part.starts}", entry)
            out = np.empty(whole.shape, values.dtype) if out is None else out
            box = tuple(slice(start, start + n) for start, n in zip(part.starts, entry.shape, strict=True))
            if filled[box].any():
                raise CheckpointFormatError(f"{name!r}: two slices overlap at {part.starts}")
            filled[box] = True
            out[box] = values
        assert out is not None  # an entry with slices comes here
        out.flags.writeable = False
        return out

    def _part(self, name: str, whole: BundleEntry, part: Slice) -> BundleEntry:
        """Return the entry of one slice after comparing it with what the whole says."""
        if len(part.starts) != len(whole.shape):
            raise CheckpointFormatError(f"a slice of {len(part.starts)} axes, expected {len(whole.shape)}")
        lengths = tuple(dim if n == FULL else n for n, dim in zip(part.lengths, whole.shape, strict=True))
        if any(a < 0 or n < 0 or a + n > dim for a, n, dim in zip(part.starts, lengths, whole.shape, strict=True)):
            raise CheckpointFormatError(f"slice {part.starts} + {lengths} leaves the shape {whole.shape}")
        key = part.key(name)
        if key not in self._slices:
            raise CheckpointFormatError(f"slice {part.starts} + {lengths} is listed but not stored")
        with located(f"slice {part.starts}"):
            entry = decode_entry(self._slices[key])
        if (entry.dtype, entry.shape, entry.slices) != (whole.dtype, lengths, ()):
            raise CheckpointFormatError(
                f"slice {part.starts} has dtype {entry.dtype} and shape {entry.shape}, "
                f"expected {whole.dtype} and {lengths}"
            )
        return entry

    def _strings(self, name: str, raw: bytes, entry: BundleEntry) -> np.ndarray:
        """Return an object array of bytes."""
        count, at = math.prod(entry.shape), 0
        if count > len(raw):
            raise CheckpointFormatError(f"{count} strings in {len(raw)} bytes")
        lengths = []
        for _ in range(count):
            length, at = varint(raw, at)
            lengths.append(length)
        if at + 4 + sum(lengths) != len(raw):
            raise CheckpointFormatError(f"strings of {at + 4 + sum(lengths)} bytes, found {len(raw)}")
        # The checksum is of the lengths as fixed-size integers, not of their varints.
        fixed = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths)
        stored = take(raw, at, 4)
        if self.crc:
            if masked_crc(fixed) != int.from_bytes(stored, "little"):
                raise CheckpointFormatError("the checksum of the strings' lengths is wrong: damaged")
            self._check(name, mask(google_crc32c.value(fixed + raw[at:])), entry)
        out, at = np.empty(count, object), at + 4
        for i, length in enumerate(lengths):
            out[i] = raw[at : at + length]
            at += length
        return out.reshape(entry.shape)

    def _check(self, name: str, found: int, entry: BundleEntry) -> None:
        if found != entry.crc:
            with located(self.shard_file(entry.shard)):
                raise CheckpointFormatError(
                    f"{name!r} has checksum {found:#010x}, expected {entry.crc:#010x}: the file is damaged"
                )


def index_file(prefix: Path) -> Path:
    """Return the index of the bundle with this prefix."""
    return prefix.with_name(f"{prefix.name}.index")
