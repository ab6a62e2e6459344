"""Whether a path is a Keras file, told by what it holds; h5py, which is slow to import, is not needed for that."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

MEMBERS = "config.json", "metadata.json", "model.weights.h5"
"""What a `.keras` archive holds, and a folder in its place."""

BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
"""What Python's zipfile raises over a damaged archive."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = (".keras", ".h5", ".hdf5")


def is_keras(path: Path) -> bool:
    """Whether a path is what `open_keras` is for: HDF5, a `.keras` archive, or a folder with the same files."""
    config, metadata, weights = MEMBERS
    if not path.is_file():
        return all((path / name).is_file() for name in (config, weights))
    with path.open("rb") as file:
        start = file.read(len(_SIGNATURE))
    if start[:2] != b"PK":
        return start == _SIGNATURE
    try:
        with zipfile.ZipFile(path) as archive:
            return {config, metadata} <= set(archive.namelist())
    except BROKEN_ZIP:
        return False


def is_called_keras(path: Path) -> bool:
    """Whether a file has a name of Keras': damaged perhaps, as `open_keras` will say."""
    return path.is_file() and path.suffix in _SUFFIXES
