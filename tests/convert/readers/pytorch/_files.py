"""The real files of other PyTorch libraries in tests/data/pytorch, unpacked."""

from __future__ import annotations

import functools
import shutil
import tarfile
import tempfile
from pathlib import Path

ARCHIVES = Path(__file__).parents[3] / "data" / "pytorch"


@functools.cache
def folder() -> Path:
    """Return where the files lie; they stay until the process ends."""
    unpacked = tempfile.TemporaryDirectory(prefix="pytorch-files-")
    _kept.append(unpacked)
    for archive in sorted(ARCHIVES.glob("*.tar.xz")):
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked.name, filter="data")
    return Path(unpacked.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def copied(form: str, to: Path) -> Path:
    """Return a copy of the folder of one form, to be changed."""
    return Path(shutil.copytree(folder() / form, to / form))
