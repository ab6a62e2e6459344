"""A file in the cache is called like a hash of it: which hashes are checked, and what becomes of a wrong one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.files.hub import check_hash

RAW = bytes(range(256)) * 9000  # more than is read at once
NAMES = {
    "a large file": hashlib.sha256(RAW).hexdigest(),
    "a small file": hashlib.sha1(b"blob %d\0" % len(RAW) + RAW).hexdigest(),
    "a mirror's": hashlib.sha1(RAW).hexdigest(),
}
OTHERS = {"a mirror's own mark": "5d41402abc4b2a76b9719d911017c592", "a cache without links": "model.safetensors"}


def cached(folder: Path, name: str, raw: bytes) -> Path:
    (folder / "blobs").mkdir()
    (folder / "blobs" / name).write_bytes(raw)
    (folder / "net.bin").symlink_to(folder / "blobs" / name)
    return folder / "net.bin"


@pytest.mark.parametrize("name", [*NAMES.values(), *OTHERS.values()], ids=[*NAMES, *OTHERS])
def test_the_file_that_was_announced(name: str, tmp_path: Path) -> None:
    link = cached(tmp_path, name, RAW)
    check_hash(link, "net.bin")
    assert link.read_bytes() == RAW


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_another_file_is_refused_and_gone(name: str, tmp_path: Path) -> None:
    link = cached(tmp_path, name, RAW[:-1] + b"x")
    with pytest.raises(CheckpointFormatError, match=r"^net\.bin arrived with another sha256 than the Hub announced"):
        check_hash(link, "net.bin")
    assert not link.exists()
