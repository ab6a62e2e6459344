"""Archives of checkpoints, unpacked as far as they can be trusted: no links, no way out of the folder, no bombs."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, cast

from timm_effnet_ext.errors import CheckpointFormatError

_MEMBER = re.compile(r"checkpoint|saved_model\.pb|keras_metadata\.pb|.+\.index|.+\.data-\d{5}-of-\d{5}")
# Weights hardly compress: Google's archives grow by about 1.1. Whoever asks for much more has other plans.
MAX_GROWTH, MAX_UNPACKED_FLOOR = 100, 1 << 30  # times the archive's size; bytes that any archive may have
_MAX_MEMBERS = 10_000
_MAX_HEADER = 1 << 20  # bytes that are read at once
# What the library raises over broken archives; the last three over fields that make no sense.
_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError, UnicodeError)


def is_archive(path: Path) -> bool:
    """Whether a file is a .tar, compressed or not, told by its first bytes."""
    with path.open("rb") as file:
        head = file.read(512)
    return head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar"


def unpack(archive: Path, folder: Path) -> None:
    """Write an archive's checkpoint files below an empty folder.

    Raises:
        CheckpointFormatError: A broken archive, a member that is a link, a device or leads out of the folder, or
            more data than a checkpoint of that size can hold.
    """
    limit = max(MAX_UNPACKED_FLOOR, MAX_GROWTH * archive.stat().st_size)
    with archive.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        data = cast("IO[bytes]", gzip.GzipFile(fileobj=file) if is_gzip else file)
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", _Limited(data, limit)), mode="r:") as tar:
                _extract(tar, folder)
        except CheckpointFormatError:
            raise
        except _BROKEN as err:
            raise CheckpointFormatError(f"broken archive: {err}") from err


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    for n, member in enumerate(tar):
        if n >= _MAX_MEMBERS:
            raise CheckpointFormatError(f"more than {_MAX_MEMBERS} members")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\0" in member.name or "\\" in member.name:
            raise CheckpointFormatError(f"member {member.name!r} leads out of the archive")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise CheckpointFormatError(f"member {member.name!r} is no plain file (a link or a device?)")
        if not _MEMBER.fullmatch(path.name):
            continue
        target = folder.joinpath(*path.parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            out = target.open("xb")
        except (FileExistsError, NotADirectoryError) as err:
            raise CheckpointFormatError(f"member {member.name!r} is there twice") from err
        with out:
            content = tar.extractfile(member)
            assert content is not None  # a plain file
            shutil.copyfileobj(content, out, 1 << 18)
        if os.path.getsize(target) != member.size:
            raise CheckpointFormatError(
                f"member {member.name!r} has {os.path.getsize(target)} bytes, expected {member.size}: cut"
            )


class _Limited:
    """A file for tarfile: forward reads of limited size, up to a limited total."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; tarfile asks for a header's whole size at once, whatever the header says."""
        if not 0 <= size <= _MAX_HEADER:
            raise CheckpointFormatError(f"a header of {size} bytes")
        self._guard(self.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek from the start, which in a compressed file reads what lies between."""
        assert whence == 0  # all that tarfile does
        self._guard(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        """Return the position in the unpacked data."""
        return self._file.tell()

    def _guard(self, end: int) -> None:
        if end > self._limit:
            raise CheckpointFormatError(f"unpacks to more than {self._limit} bytes: refused")
