"""What a path on disk is, if TensorFlow wrote it -> an open Bundle.

Archives are unpacked for as long as it is open, and as far as they can be trusted: no links, no way out of the folder,
no bombs.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from timm_effnet_ext.convert.readers.tensorflow.bundle import Bundle, index_file
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_few, located

_SHARD = re.compile(r"(?P<prefix>.+)\.data-\d{5}-of-\d{5}")
# The text proto CheckpointState; what is not ASCII stands there as octal escapes of UTF-8.
_STATE = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)")
_MAX_STATE = 1 << 20  # bytes of a `checkpoint` file
_SAVED_MODEL = Path("variables", "variables")
_MEMBER = re.compile(r"checkpoint|saved_model\.pb|keras_metadata\.pb|.+\.index|.+\.data-\d{5}-of-\d{5}")
# Weights hardly compress: Google's archives grow by about 1.1. Whoever asks for much more has other plans.
MAX_GROWTH, MAX_UNPACKED_FLOOR = 100, 1 << 30  # times the archive's size; bytes that any archive may have
_MAX_MEMBERS = 10_000
_MAX_HEADER = 1 << 20  # bytes that are read at once
# What the library raises over broken archives; the last three over fields that make no sense.
_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError, UnicodeError)


class Source(NamedTuple):
    """What a path was found to be; `prefix` is None for an archive, `note` says what was taken instead of what."""

    path: Path
    prefix: Path | None
    note: str | None = None


def recognise(path: Path) -> Source | None:
    """Return what TensorFlow checkpoint a path names, or None where it is something else.

    A prefix, its `.index` or a data file, a folder with a `checkpoint` file or with one index, a SavedModel folder or
    its `saved_model.pb`, a `.tgz`, `.tar.gz` or `.tar`.

    Raises:
        CheckpointFormatError: It is one of them, but which checkpoint is meant cannot be said.
    """
    if path.is_dir():
        return _folder(path)
    shard = _SHARD.fullmatch(path.name)
    if path.name.endswith(".index") and path.is_file():
        return Source(path, path.with_suffix(""))
    if shard and path.is_file():
        return Source(path, path.with_name(shard["prefix"]))
    if index_file(path).is_file():
        return Source(path, path)
    if path.name in ("checkpoint", "saved_model.pb") and path.is_file():
        return _folder(path.parent)
    return Source(path, None) if path.is_file() and is_archive(path) else None


@contextmanager
def open_bundle(source: Source, *, crc: bool = True) -> Iterator[Bundle]:
    """Open a checkpoint that was recognised; nothing unpacked is left behind.

    Raises:
        CheckpointFormatError: It is damaged.
    """
    if source.prefix is None:
        with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
            unpack(source.path, Path(folder))
            try:
                yield Bundle(_unpacked(Path(folder)), crc=crc)
            except EffNetExtError as err:  # where it was unpacked is nobody's business
                told = str(err).replace(f"{folder}/", f"{source.path}: ")
                err.args = (told.replace(folder, str(source.path)),)
                raise
    else:
        yield Bundle(source.prefix, crc=crc)


def is_of_saved_model(prefix: Path) -> bool:
    """Whether a bundle with this prefix is the variables of a SavedModel."""
    return prefix.parts[-2:] == _SAVED_MODEL.parts


def _folder(folder: Path) -> Source | None:
    """Return what a folder holds: a SavedModel, what its `checkpoint` file names, or its only index."""
    if (folder / "saved_model.pb").is_file():
        return Source(folder, folder / _SAVED_MODEL)
    indices = sorted(folder.glob("*.index"))
    state = folder / "checkpoint"
    if state.is_file():
        with located(state):
            prefix = latest(state)
        if index_file(prefix).is_file() or len(indices) != 1:
            return Source(folder, prefix)
        # A folder that was copied in part or renamed still has a file that speaks of another checkpoint.
        only = indices[0].with_suffix("")
        note = f"the file 'checkpoint' names {prefix.name}, which is not there: {only.name}, the only one, was taken"
        return Source(folder, only, note)
    if len(indices) > 1:
        names = first_few(index.name for index in indices)
        with located(folder):
            raise CheckpointFormatError(f"holds {len(indices)} checkpoints ({names}): name one of them")
    return Source(folder, indices[0].with_suffix("")) if indices else None


def latest(state: Path) -> Path:
    """Return the prefix that a `checkpoint` file names, always inside its folder.

    Absolute paths and those that lead out are from the machine that trained: their last part is looked for here.
    """
    if state.stat().st_size > _MAX_STATE:
        raise CheckpointFormatError(f"{state.stat().st_size} bytes, expected a short text file")
    found = _STATE.search(state.read_bytes())
    named = _ESCAPE.sub(_unescape, found[1]).decode("utf-8", "replace") if found else ""
    parts = PurePosixPath(named).parts
    if not parts or "\0" in named or parts[-1] in ("..", "/"):
        raise CheckpointFormatError(f"no usable model_checkpoint_path, found {named!r}")
    is_outside = parts[0] == "/" or ".." in parts
    prefix = state.parent / (parts[-1] if is_outside else named)
    root = state.parent.resolve()
    if not prefix.parent.resolve().is_relative_to(root):
        raise CheckpointFormatError(f"model_checkpoint_path {named!r} leads out of its folder")
    return prefix


def _unescape(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8) & 0xFF]) if escape[1].isdigit() else escape[1]


def _unpacked(folder: Path) -> Path:
    """Return the prefix of the one checkpoint in an unpacked archive, at whatever depth."""
    homes = sorted({path.parent for path in folder.rglob("*.index")})
    found = []
    for home in homes:
        is_inner = home.name == "variables" and (home.parent / "saved_model.pb").is_file()
        source = _folder(home.parent if is_inner else home)
        if source is not None and source.prefix is not None:
            found.append(source.prefix)
    if len(found) != 1:
        names = first_few(str(prefix.relative_to(folder)) for prefix in found)
        raise CheckpointFormatError(f"holds {len(found)} checkpoints, expected one{names and ': ' + names}")
    return found[0]


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
