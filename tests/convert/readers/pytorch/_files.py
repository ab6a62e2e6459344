"""The real files of other PyTorch libraries in tests/data/pytorch, unpacked."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.archives import unpack_archives

ARCHIVES = Path(__file__).parents[3] / "data" / "pytorch"


def folder() -> Path:
    """Return where the files lie."""
    return unpack_archives(ARCHIVES)


def copied(form: str, to: Path) -> Path:
    """Return a copy of the folder of one form, to be changed."""
    return Path(shutil.copytree(folder() / form, to / form))
