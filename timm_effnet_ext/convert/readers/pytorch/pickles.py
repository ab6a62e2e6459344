"""Loads what torch saved as a pickle, by torch's own loader of weights: no code and no object of a file is ever run.

A TorchScript archive is such a pickle of modules, with their code beside it. Its tensors are had by the same loader
after every class of the archive was replaced by one that only keeps what it is given.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from pickletools import genops
from typing import Any

import numpy as np

from timm_effnet_ext.errors import CheckpointFormatError, first_few, first_line

_CHUNK = 1 << 20  # bytes
_CONSTANTS, _PICKLE = "constants.pkl", "data.pkl"  # the first is in TorchScript archives alone
_REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SCRIPTED = "__torch__."  # begins the names of TorchScript's own classes
_LISTS = "torch.jit._pickle."  # begins those of its functions that make lists
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # as numpy 1 and numpy 2 name it


def load_pickle(path: Path, crc: bool) -> tuple[Any, str]:
    """Return what a file holds and what it is, "PyTorch pickle" or "TorchScript archive".

    Raises:
        CheckpointFormatError: Damaged, or with other Python objects than tensors, numbers and texts.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip and crc:
            _check_sums(path)
        if is_zip and _is_scripted(path):
            return _scripted(path), "TorchScript archive"
        return _load(path, [*_numpy_globals(), argparse.Namespace], mmap=is_zip), "PyTorch pickle"
    except CheckpointFormatError:
        raise
    except UnpicklingError as err:
        raise CheckpointFormatError(_refusal(path, err)) from err
    except Exception as err:  # damaged bytes are a program of the unpickler's own: it may end in any error
        raise CheckpointFormatError(f"cut or damaged ({first_line(err)})") from err


def _load(path: Path, allowed: list[Any], *, mmap: bool) -> Any:
    import torch

    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")  # damaged files make torch warn before it fails
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _numpy_globals() -> Iterator[Any]:
    """Yield numpy's scalars, arrays and types, which scripts save beside weights; they run no code of a file."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    for module in _NUMPY:
        yield scalar, f"{module}.scalar"
        yield array, f"{module}._reconstruct"
    yield from (np.ndarray, np.dtype)
    yield from {type(np.dtype(code)) for code in np.typecodes["All"]}


def _refusal(path: Path, err: Exception) -> str:
    """Return which objects stand in the way, without torch's own advice to load them all the same."""
    found = sorted(_foreign_globals(path) or _REFUSED_GLOBAL.findall(str(err)))
    if not found:
        why = first_line(err)
        return f"holds other Python objects than tensors, or is damaged ({why}). Save model.state_dict() instead"
    whole = "a whole pickled model? " if any("torch.nn.modules" in name for name in found) else ""
    return (
        f"holds other Python objects than tensors: {whole}{first_few(found, 3)}. They are never loaded. Where you "
        "trust the file, load it in the program that saved it, and save model.state_dict()"
    )


def _foreign_globals(path: Path) -> list[str]:
    """Return the names of the objects that torch does not load, where the file can be looked through."""
    import torch

    try:
        with torch.serialization.safe_globals([*_numpy_globals(), argparse.Namespace]):
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged, or of the former format: the refusal itself names one
        return []


def _check_sums(path: Path) -> None:
    """Raise unless the members of a zip have their checksums, at which torch does not look."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.CRC:  # 0 where torch.serialization.set_crc32_options(False) left it out
                with archive.open(info) as member:
                    while member.read(_CHUNK):
                        pass


def _is_scripted(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f"/{_CONSTANTS}") for name in archive.namelist())


class _Module:
    """Stands for any class of a TorchScript archive: keeps the attributes that it is given, and does nothing."""


def _scripted(path: Path) -> dict[str, Any]:
    """Return the state_dict of a TorchScript archive; one that was frozen has no names."""
    import torch

    with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
        plain = Path(folder, "weights.pt")
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(plain, "w") as out:
            for info in archive.infolist():  # all but code and constants, which torch.load takes for a program
                if "/code/" in info.filename or info.filename.endswith(f"/{_CONSTANTS}"):
                    continue
                if info.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointFormatError(f"{info.filename} is compressed, which torch never does: refused")
                out.writestr(info.filename, archive.read(info))
            (data,) = [archive.read(name) for name in archive.namelist() if name.endswith(f"/{_PICKLE}")]
        names = {str(arg).replace(" ", ".") for op, arg, _ in genops(data) if op.name == "GLOBAL"}
        classes: list[Any] = [(type("_Scripted", (_Module,), {}), name) for name in names if name.startswith(_SCRIPTED)]
        lists: list[Any] = [(_first, name) for name in names if name.startswith(_LISTS)]
        model = _load(plain, classes + lists, mmap=False)
    state = dict(_state_of(model, "", torch.Tensor))
    if not state:
        raise CheckpointFormatError(
            "a frozen TorchScript archive, whose weights have no names. Save model.state_dict() of the model "
            "before it was scripted"
        )
    return state


def _first(*values: Any) -> Any:
    """Return what TorchScript tags with a type; the functions that make its lists do no more."""
    return values[0] if values else None


def _state_of(module: Any, prefix: str, tensor: type) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a module and of those in it, by attribute path."""
    for name, value in vars(module).items() if isinstance(module, _Module) else ():
        if isinstance(value, tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _state_of(value, f"{prefix}{name}.", tensor)
