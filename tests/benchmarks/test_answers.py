"""The photographs of GCompris: what is taken out of its files of resources, and what is left there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import answers


def webp(side: int, mode: str = "RGB", alpha: int = 255) -> bytes:
    image = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))
    if mode == "RGBA":
        image.putalpha(alpha)
    stream = io.BytesIO()
    image.save(stream, "WEBP")
    return stream.getvalue()


def test_photographs_are_taken_and_symbols_are_left(tmp_path: Path) -> None:
    photo, other, opaque = webp(200), webp(240), webp(210, "RGBA")
    for activity in answers._ACTIVITIES:
        (tmp_path / f"{activity}.rcc").write_bytes(b"qres")
    resources = b"qres" + photo + b"RIFF\x04\0\0\0WAVE" + webp(64) + webp(220, "RGBA", 9) + other + opaque + photo[:90]
    (tmp_path / "categorization.rcc").write_bytes(resources)
    found = sorted(answers.unpack(tmp_path, tmp_path / "images").iterdir())
    assert [path.name for path in found] == [f"categorization-{n}.webp" for n in range(3)]
    assert [path.read_bytes() for path in found] == [photo, other, opaque]


def test_without_the_package_its_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"absent: not there\. Install the Debian package gcompris-qt-data"):
        answers.unpack(tmp_path / "absent", tmp_path)
