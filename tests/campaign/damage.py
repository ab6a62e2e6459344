"""Damages what it is given, a file's bytes or one value in its JSON; the random generator says how and where."""

from __future__ import annotations

import gzip
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests._bundle_writer import table
from timm_effnet_ext.convert.readers.tensorflow.sstable import read_table

Damage = Callable[[bytes, Random], bytes]

LONGEST = 64  # bytes that one damage overwrites, leaves out or repeats
_EDGE = 4096  # bytes at either end of a file, where most formats say what lies between
NONSENSE: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 2**70, 1e308, math.nan, "", "x", "\0", "é" * 300, [], {}, [[1]], {"a": 1}, [None] * 4,
)  # fmt: skip


def damaged(raw: bytes, rng: Random) -> bytes:
    """Return the bytes with one thing wrong: some overwritten, lost or there twice, or the end cut off."""
    return rng.choice((_overwritten, _overwritten, _blank, _cut, _lost, _repeated))(raw, rng)


def _overwritten(raw: bytes, rng: Random) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        out[_place(raw, rng)] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
    return bytes(out)


def _blank(raw: bytes, rng: Random) -> bytes:
    at, length = _place(raw, rng), rng.choice((4, 8, LONGEST))
    return raw[:at] + rng.choice((b"\0", b"\xff")) * len(raw[at : at + length]) + raw[at + length :]


def _cut(raw: bytes, rng: Random) -> bytes:
    return raw[: _place(raw, rng)]


def _lost(raw: bytes, rng: Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + raw[at + rng.randint(1, LONGEST) :]


def _repeated(raw: bytes, rng: Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + raw[at : at + rng.randint(1, LONGEST)] + raw[at:]


def _place(raw: bytes, rng: Random) -> int:
    """Return a position, every other one near the beginning or the end."""
    anywhere, edge = rng.randrange(len(raw)), rng.randrange(min(_EDGE, len(raw)))
    return rng.choice((anywhere, anywhere, edge, len(raw) - 1 - edge))


def nonsensical(text: bytes, rng: Random) -> bytes:
    """Return JSON with one value replaced by nonsense, or left out."""
    tree = json.loads(text)
    container, key = rng.choice(list(_places(tree)))
    if rng.random() < 0.2:
        del container[key]
    else:
        container[key] = rng.choice(NONSENSE)
    return json.dumps(tree).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in some JSON with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


# Below a checksum: what stands under it is damaged and the checksum made to fit, so that the next reader meets it.


def in_table(raw: bytes, rng: Random) -> bytes:
    """Return a tensor bundle's index with one key or value damaged."""
    pairs = list(read_table(raw))
    at = rng.randrange(len(pairs))
    key, value = pairs[at]
    pairs[at] = (damaged(key, rng), value) if key and rng.random() < 0.3 else (key, damaged(value, rng))
    return table(pairs)


def in_gzip(raw: bytes, rng: Random) -> bytes:
    """Return a gzip file whose content is damaged."""
    return gzip.compress(damaged(gzip.decompress(raw), rng), 1)


def in_zip(suffix: str, damage: Damage = damaged) -> Damage:
    """Return how to damage the one member of a zip whose name ends in `suffix`."""

    def repacked(raw: bytes, rng: Random) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, damage(content, rng) if name.endswith(suffix) else content)
        return out.getvalue()

    return repacked


def in_safetensors_header(raw: bytes, rng: Random) -> bytes:
    """Return a safetensors file with nonsense in its header, which has no checksum but a length."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = nonsensical(raw[8:end], rng)
    return len(header).to_bytes(8, "little") + header + raw[end:]
