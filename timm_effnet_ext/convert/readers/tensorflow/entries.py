"""The messages in a bundle's index, decoded: its header, and of each tensor dtype, shape, place and slices.

Spec: tensorflow/core/protobuf/tensor_bundle.proto, core/framework/{tensor_shape,tensor_slice}.proto,
core/util/saved_tensor_slice_util.cc (keys of slices), tsl/lib/strings/ordered_code.cc.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from timm_effnet_ext.arch.layout import Shape
from timm_effnet_ext.convert.readers.tensorflow.protowire import chunk, fields, number, signed
from timm_effnet_ext.errors import CheckpointFormatError, first_few

FULL = -1  # length of a slice that takes the whole axis
_MAX_RANK = 32  # of every numpy that is supported
_MAX_BYTES = 1 << 48
_SHARDS, _ENDIANNESS, _VERSION, _MIN_CONSUMER = 1, 2, 3, 2  # BundleHeaderProto, VersionDef
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CRC, _SLICES = range(1, 8)  # BundleEntryProto
_DIM, _UNKNOWN_RANK, _DIM_SIZE = 2, 3, 1  # TensorShapeProto
_EXTENT, _START, _LENGTH = 1, 1, 2  # TensorSliceProto


class Slice(NamedTuple):
    """One part of a partitioned variable: start and length for each axis."""

    starts: Shape
    lengths: tuple[int, ...]

    def key(self, name: str) -> bytes:
        """Return the key of the slice's entry: the ordered code of 0, name, rank, then the extents."""
        escaped = name.encode().replace(b"\xff", b"\xff\x00").replace(b"\x00", b"\x00\xff")
        extents = (n for extent in zip(self.starts, self.lengths, strict=True) for n in extent)
        rank = len(self.starts).to_bytes(1, "big") if self.starts else b""
        return b"\0" + escaped + b"\0\1" + bytes([len(rank)]) + rank + b"".join(map(ordered_int, extents))


class BundleEntry(NamedTuple):
    """A decoded BundleEntryProto."""

    dtype: int = 0
    shape: Shape = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[Slice, ...] = ()


def ordered_int(n: int) -> bytes:
    """Return a signed integer in TensorFlow's ordered code: big-endian, its length in unary in the first bits."""
    size = 1
    while not -(1 << (7 * size - 1)) <= n < 1 << (7 * size - 1):
        size += 1
    code = (n & ((1 << 8 * size) - 1)) ^ (((1 << size) - 1) << (7 * size))
    return code.to_bytes(size, "big")


def num_shards(header: bytes) -> int:
    """Return the number of data files that a bundle's header says.

    Raises:
        CheckpointFormatError: Another byte order, a later version, or no possible number.
    """
    found = dict(fields(header))
    order = found.get(_ENDIANNESS, 0)
    if order != 0:
        raise CheckpointFormatError(f"byte order {order!r} (big-endian), only little-endian is supported")
    version = dict(fields(chunk(found.get(_VERSION, b""))))
    needed = number(version.get(_MIN_CONSUMER, 0))
    if needed > 1:
        raise CheckpointFormatError(f"needs a reader of bundle version {needed}, supported is 1")
    shards = number(found.get(_SHARDS, 0))
    if not 1 <= shards <= 99999:
        raise CheckpointFormatError(f"{shards} data files, expected 1 to 99999")
    return shards


def decode_entry(raw: bytes) -> BundleEntry:
    """Return the entry in a value of the index.

    Raises:
        CheckpointFormatError: No such message, or a shape that no tensor can have.
    """
    values: dict[int, int] = {}
    shape: Shape = ()
    slices = []
    for field, value in fields(raw):
        if field == _SHAPE:
            shape = _decode_shape(chunk(value))
        elif field == _SLICES:
            slices.append(_decode_slice(chunk(value)))
        else:
            values[field] = number(value)
    dtype, shard, offset, size, crc = (values.get(field, 0) for field in (_DTYPE, _SHARD, _OFFSET, _SIZE, _CRC))
    return BundleEntry(dtype, shape, shard, signed(offset), signed(size), crc, tuple(slices))


def _decode_shape(raw: bytes) -> Shape:
    dims = []
    for field, value in fields(raw):
        if field == _UNKNOWN_RANK and value:
            raise CheckpointFormatError("has a shape of unknown rank")
        if field == _DIM:
            found = dict(fields(chunk(value)))
            dims.append(signed(number(found.get(_DIM_SIZE, 0))))
    if len(dims) > _MAX_RANK or min(dims, default=0) < 0 or math.prod(max(d, 1) for d in dims) > _MAX_BYTES:
        raise CheckpointFormatError(f"has the impossible shape ({first_few(map(str, dims))})")
    return tuple(dims)


def _decode_slice(raw: bytes) -> Slice:
    """Return the extents; an axis that is taken whole has none of its two numbers."""
    starts, lengths = [], []
    for field, value in fields(raw):
        if field == _EXTENT:
            extent = {key: signed(number(n)) for key, n in fields(chunk(value))}
            starts.append(extent.get(_START, 0))
            lengths.append(extent.get(_LENGTH, FULL))
    if len(starts) > _MAX_RANK:
        raise CheckpointFormatError(f"has a slice of {len(starts)} axes")
    return Slice(tuple(starts), tuple(lengths))
