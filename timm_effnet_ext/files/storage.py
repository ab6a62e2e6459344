"""Files and folders that appear whole or not at all: written beside their place, published by one rename."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from timm_effnet_ext.errors import EffNetExtError, first_few

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux fcntl.h, fs.h


def sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))  # one buffer: fresh ones cost as much as hashing
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            digest.update(chunk[:size])
    return digest.hexdigest()


def is_utf8(path: Path) -> bool:
    """Whether a path can be written as UTF-8, which torch and safetensors take, and no others."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a path, its suffix the target's, that becomes `target` when the block is left without an exception.

    Raises:
        EffNetExtError: Its folder is missing.
    """
    if not target.parent.is_dir():
        raise EffNetExtError(f"{target}: there is no folder {target.parent}")
    with _full_disk_named(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as folder:
        part = Path(folder) / target.name
        yield part
        os.replace(part, target)


@contextmanager
def new_folder(target: Path, ours: Iterable[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder that becomes `target` when the block is left without an exception.

    It lies beside the target under a hidden name and takes its place by one rename, so whoever looks finds the old
    one or the new one, whole. `ours` are the names of the files that a folder to be overwritten may hold.

    Raises:
        EffNetExtError: Something lies at the target that must not be replaced.
    """
    target = Path(os.path.abspath(target))  # `.` has no name of its own
    check_target(target, ours, overwrite=overwrite)
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    try:
        os.chmod(folder, 0o777 & ~_umask())
        with _full_disk_named(target):
            yield folder
            _publish(folder, target, tuple(ours), overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in missing:  # that nothing came to lie in
            with suppress(OSError):
                parent.rmdir()


@contextmanager
def _full_disk_named(target: Path) -> Iterator[None]:
    """Say what could not be written where the disk is full: writing itself names no file."""
    try:
        yield
    except OSError as err:
        if err.errno in _FULL:
            raise OSError(err.errno, os.strerror(err.errno), str(target)) from err
        raise


def check_target(target: Path, ours: Iterable[str], *, overwrite: bool) -> None:
    """Raise unless `target` is free, an empty folder, or one of ours that may be replaced."""
    if not is_utf8(target):
        raise EffNetExtError(f"{target}: the path is no UTF-8. Choose another output folder")
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise EffNetExtError(f"{target}: is no folder. Choose another output folder")
    found = {path.name for path in target.iterdir()}
    if found - set(ours):
        raise EffNetExtError(
            f"{target}: holds {first_few(found - set(ours))}, which no conversion wrote. Choose another output folder"
        )
    if found and not overwrite:
        raise EffNetExtError(f"{target}: exists already. Choose another output folder, or pass --overwrite")


def _publish(folder: Path, target: Path, ours: tuple[str, ...], overwrite: bool) -> None:
    try:
        os.rename(folder, target)  # this replaces an empty folder, too
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        check_target(target, ours, overwrite=overwrite)  # it may have come while we were at work
        exchange(folder, target)  # `folder` is the old one now


def exchange(one: Path, other: Path) -> None:
    """Swap two folders at once where the system can, else by way of a third name."""
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(one), os.fsencode(other)
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    aside = one.with_suffix(".old")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
