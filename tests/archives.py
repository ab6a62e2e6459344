"""Files of tests/data that lie there packed, unpacked once a process."""

from __future__ import annotations

import functools
import tarfile
import tempfile
from pathlib import Path

_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def unpack_archives(archives: Path) -> Path:
    """Return where the content of all `.tar.xz` of a folder lies; it stays until the process ends."""
    unpacked = tempfile.TemporaryDirectory(prefix=f"{archives.name}-files-")
    _kept.append(unpacked)
    for archive in sorted(archives.glob("*.tar.xz")):
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked.name, filter="data")
    return Path(unpacked.name)
