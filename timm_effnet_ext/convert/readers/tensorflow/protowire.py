"""Protocol-buffer wire bytes -> fields.

A message is a run of fields: a varint tag (number << 3 | wire type), then the value.
Spec: protobuf.dev/programming-guides/encoding. Wire types 0 (varint), 1 (8 bytes), 2 (length and bytes) and
5 (4 bytes) exist; 3 and 4 (groups) are deprecated, and TensorFlow writes none.
"""

from __future__ import annotations

from collections.abc import Iterator

from timm_effnet_ext.errors import CheckpointFormatError, located

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}  # bytes
_MAX_VARINT = 10  # bytes of a 64-bit value, 7 bits each


def take(buf: bytes, at: int, n: int) -> bytes:
    """Return `buf[at:at + n]`, the only way file bytes are sliced.

    Raises:
        CheckpointFormatError: Fewer than `n` bytes are left.
    """
    if n < 0 or at < 0 or at + n > len(buf):
        raise CheckpointFormatError(f"needs {n} bytes at offset {at}, found {max(0, len(buf) - at)}")
    return buf[at : at + n]


def varint(buf: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned varint at `at` and the offset behind it."""
    value = shift = 0
    for end in range(at, min(at + _MAX_VARINT, len(buf))):
        byte = buf[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, end + 1
        shift += 7
    raise CheckpointFormatError(f"the varint at offset {at} does not end within {len(buf)} bytes")


def signed(value: int) -> int:
    """Return an unsigned varint as the int64 that it stands for (two's complement)."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def fields(buf: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a message: an int, or the bytes of wire type 2."""
    at = 0
    while at < len(buf):
        tag, at = varint(buf, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == VARINT:
            value, at = varint(buf, at)
        elif wire == BYTES:
            size, at = varint(buf, at)
            with located(f"field {number}"):
                value = take(buf, at, size)
            at += size
        elif wire in _FIXED:
            with located(f"field {number}"):
                value = int.from_bytes(take(buf, at, _FIXED[wire]), "little")
            at += _FIXED[wire]
        else:
            raise CheckpointFormatError(f"field {number} has wire type {wire}, expected one of 0, 1, 2, 5")
        yield number, value


def number(value: int | bytes) -> int:
    """Return a numeric field's value, or raise where the file has bytes there."""
    if isinstance(value, bytes):
        raise CheckpointFormatError(f"expected a number, found {len(value)} bytes")
    return value


def chunk(value: int | bytes) -> bytes:
    """Return a length-delimited field's value, or raise where the file has a number there."""
    if isinstance(value, int):
        raise CheckpointFormatError(f"expected bytes, found the number {value}")
    return value


def text(value: int | bytes) -> str:
    """Return a string field's value as UTF-8."""
    raw = chunk(value)
    try:
        return raw.decode()
    except UnicodeDecodeError as err:
        raise CheckpointFormatError(f"{raw[:40]!r} is not UTF-8") from err
