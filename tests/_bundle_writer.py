"""Write TensorFlow tensor bundles of any shape of index, so that tests need no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import google_crc32c
import numpy as np

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "object": 7, "complex64": 8,
          "int64": 9, "bool": 10, "bfloat16": 14, "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23}  # fmt: skip
MAGIC = bytes.fromhex("57fb808b247547db")


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def table(pairs: Iterable[tuple[bytes, bytes]], per_block: int = 16, compression: int = 0) -> bytes:
    """Return a table with at most `per_block` entries in a block and a restart at every fourth."""
    pairs, out, index = sorted(pairs), b"", []

    def block(entries: list[tuple[bytes, bytes]]) -> bytes:
        nonlocal out
        body, restarts, last = b"", [], b""
        for n, (key, value) in enumerate(entries):
            if n % 4 == 0:
                restarts.append(len(body))
                last = b""
            shared = next(
                (i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last))
            )
            body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
            last = key
        body += b"".join(n.to_bytes(4, "little") for n in [*(restarts or [0]), len(restarts or [0])])
        handle = varint(len(out)) + varint(len(body))
        body += bytes([compression])
        out += body + masked(body).to_bytes(4, "little")
        return handle

    for at in range(0, len(pairs), per_block):
        index.append((pairs[min(at + per_block, len(pairs)) - 1][0], block(pairs[at : at + per_block])))
    footer = (block([]) + block(index)).ljust(40, b"\0")
    return out + footer + MAGIC


def ordered(n: int) -> bytes:
    """Return TensorFlow's ordered code of -64 <= n < 8192."""
    return bytes([n + 128]) if n < 64 else (n + 0xC000).to_bytes(2, "big")


def write_bundle(
    prefix: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    shards: int = 1,
    per_block: int = 16,
    slices: Mapping[str, tuple[int, int]] | None = None,
    bfloat16: Iterable[str] = (),
    compression: int = 0,
    header: bytes | None = None,
) -> Path:
    """Write `tensors` in turn to the shards; `slices` is name -> (axis, number of parts), object arrays are strings."""
    data = [bytearray() for _ in range(shards)]
    pairs = {b"": field(1, shards) + field(3, field(1, 1)) if header is None else header}
    parts = 0

    def entry(array: np.ndarray, dtype: str) -> bytes:
        nonlocal parts
        shard, parts = parts % shards, parts + 1
        if dtype == "bfloat16":
            raw = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        elif dtype == "object":
            strings = [bytes(s) for s in array.ravel()]
            fixed = b"".join(len(s).to_bytes(4, "little") for s in strings)
            check = masked(fixed).to_bytes(4, "little")
            raw = b"".join(varint(len(s)) for s in strings) + check + b"".join(strings)
            crc = masked(fixed + check + b"".join(strings))
        else:
            raw = array.tobytes()
        crc = crc if dtype == "object" else masked(raw)
        out = field(1, DTYPES[dtype]) + field(2, shape(array)) + field(3, shard) + field(4, len(data[shard]))
        data[shard] += raw
        return out + field(5, len(raw)) + b"\x35" + crc.to_bytes(4, "little")

    for name, array in tensors.items():
        dtype = "bfloat16" if name in bfloat16 else str(array.dtype)
        if name not in (slices or {}):
            pairs[name.encode()] = entry(array, dtype)
            continue
        axis, count = (slices or {})[name]
        start, extents = 0, b""
        for part in np.array_split(array, count, axis):
            length = part.shape[axis]
            extent = field(1, start) + varint(2 << 3) + varint(length)
            extents += field(7, b"".join(field(1, extent if a == axis else b"") for a in range(array.ndim)))
            codes = ((start, length) if a == axis else (0, -1) for a in range(array.ndim))
            code = b"".join(ordered(n) for pair in codes for n in pair)
            pairs[b"\0" + name.encode() + b"\0\1" + b"\1" + bytes([array.ndim]) + code] = entry(part, dtype)
            start += length
        pairs[name.encode()] = field(1, DTYPES[dtype]) + field(2, shape(array)) + extents
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(prefix.name + ".index").write_bytes(table(pairs.items(), per_block, compression))
    for shard, raw in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(raw)
    return prefix


def shape(array: np.ndarray) -> bytes:
    return b"".join(field(2, field(1, dim)) for dim in array.shape)


def object_graph(names: Mapping[str, str]) -> np.ndarray:
    """Return the graph tensor that gives checkpoint keys their full names: one object with many attributes."""
    attributes = (
        field(2, field(1, b"V") + field(2, full.encode()) + field(3, key.encode())) for key, full in names.items()
    )
    return np.array(field(1, b"".join(attributes)), object)
