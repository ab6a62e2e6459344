"""LevelDB table bytes -> (key, value) pairs.

    table  = data block … | metaindex block | index block | footer
    block  = entries | restart offsets (uint32 each) | their number (uint32), then a 5-byte trailer:
             compression (1 byte, 0: none, 1: snappy) | masked CRC-32C of block and compression byte (uint32)
    entry  = varint shared | varint unshared | varint value size | unshared key bytes | value
    footer = metaindex handle | index handle | zeros up to 40 bytes | magic (8 bytes)
    handle = varint offset | varint size (without the trailer)

All integers are little-endian. Each entry of the index block is a handle of one data block, keyed by a key that is
at least the block's last. Spec: leveldb doc/table_format.md; tensorflow/tsl lib/io/{format,block,table}.cc.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

from timm_effnet_ext.convert.readers.tensorflow.protowire import take, varint
from timm_effnet_ext.errors import CheckpointFormatError, located

FOOTER_SIZE = 48
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
MASK_DELTA = 0xA282EAD8
_TRAILER = 5
_COMPRESSIONS = {1: "snappy", 2: "zstd"}
# Keys are prefix-compressed, so few bytes can ask for very many: names never come near this.
_KEY_GROWTH = 64
_KEY_FLOOR = 1 << 24  # bytes of keys that any file may have


class _Handle(NamedTuple):
    offset: int
    size: int


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of `data` as tables and bundles store it."""
    return mask(google_crc32c.value(data))


def mask(crc: int) -> int:
    """Return a CRC-32C rotated and shifted, so that data with CRCs in it can be checked."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def read_table(buf: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of every block, in strictly rising order of keys.

    Raises:
        CheckpointFormatError: Cut, damaged, compressed, or not a table.
    """
    if len(buf) < FOOTER_SIZE or buf[-8:] != MAGIC:
        raise CheckpointFormatError(
            f"not a TensorFlow checkpoint index, or cut: {len(buf)} bytes that end in {buf[-8:].hex()!r}, "
            f"expected {MAGIC.hex()!r}"
        )
    footer = buf[-FOOTER_SIZE:]
    with located("footer"):
        _, at = _handle(footer, 0)
        index, _ = _handle(footer, at)
    last: bytes | None = None
    total = end = 0
    for n, place in enumerate(_places(buf, index)):
        with located(f"data block {n}"):
            handle, _ = _handle(place, 0)
            if handle.offset < end:
                raise CheckpointFormatError(f"at offset {handle.offset}, expected {end} or later")
            end = handle.offset + handle.size
            for key, value in _block(buf, handle):
                total += len(key)
                if last is not None and key <= last:
                    raise CheckpointFormatError(f"key {key[:60]!r} after {last[:60]!r}, expected rising keys")
                if total > max(_KEY_FLOOR, _KEY_GROWTH * len(buf)):
                    raise CheckpointFormatError(f"more than {total} bytes of keys in a file of {len(buf)}")
                last = key
                yield key, value


def _places(buf: bytes, index: _Handle) -> Iterator[bytes]:
    """Yield the handle of each data block, one after the other: so many as there are blocks to be read."""
    with located("index block"):
        for _, place in _block(buf, index):
            yield place


def _handle(buf: bytes, at: int) -> tuple[_Handle, int]:
    offset, at = varint(buf, at)
    size, at = varint(buf, at)
    return _Handle(offset, size), at


def _block(buf: bytes, handle: _Handle) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of one block after its checksum has been checked."""
    stored = take(buf, handle.offset, handle.size + _TRAILER)
    body, checked = stored[: handle.size], stored[: handle.size + 1]
    expected, found = int.from_bytes(stored[-4:], "little"), masked_crc(checked)
    if expected != found:
        raise CheckpointFormatError(f"checksum {found:#010x}, expected {expected:#010x}: the file is damaged")
    if kind := checked[-1]:
        name = _COMPRESSIONS.get(kind, "unknown")
        raise CheckpointFormatError(f"compression {kind} ({name}), only uncompressed blocks are supported")
    with located("restart count"):
        restarts = int.from_bytes(take(body, handle.size - 4, 4), "little")
    end = handle.size - 4 * (restarts + 1)
    with located("restart offsets"):
        take(body, end, 4 * restarts)
    at, key = 0, b""
    while at < end:
        shared, unshared, size = body[at : at + 3]  # nearly always one byte each; restarts follow, so there are three
        if shared | unshared | size < 0x80:
            at += 3
        else:
            shared, at = varint(body, at)
            unshared, at = varint(body, at)
            size, at = varint(body, at)
        if shared > len(key) or at + unshared + size > end:
            raise CheckpointFormatError(f"the entry before offset {at} leaves its block of {end} bytes")
        key = key[:shared] + body[at : at + unshared]
        at += unshared
        yield key, body[at : at + size]
        at += size
