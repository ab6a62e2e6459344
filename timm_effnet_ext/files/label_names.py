"""The names of classes in a file: one a line, or a JSON list."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from timm_effnet_ext.errors import CheckpointFormatError, located

CLASS_NAMES_FILE = "class_names.txt"
"""What `timm_effnet_ext run train.py` writes into a run's folder, in the order in which the classes were numbered."""

_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_BYTES = 64 << 20


def read_label_names(path: str | Path) -> tuple[str, ...]:
    """Return one name a line, or a JSON list of names; white space around a name is no part of it.

    Raises:
        CheckpointFormatError: Neither, a name that is empty, or one that is there twice.
    """
    path = Path(path)
    with located(path):
        is_json = path.suffix == ".json"
        names = _json_list(path) if is_json else [line.strip() for line in _text(path).removesuffix("\n").split("\n")]
        empty = [number for number, name in enumerate(names, 1) if not name]
        if empty or not names:
            entry = "entry" if is_json else "line"
            raise CheckpointFormatError(f"{f'{entry} {empty[0]} is empty' if empty else 'is empty'}: name each class")
        first: dict[str, int] = {}
        for number, name in enumerate(names, 1):
            if first.setdefault(name, number) != number:
                raise CheckpointFormatError(f"{name!r} is there twice, as {first[name]} and {number}")
    return tuple(names)


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointFormatError(f"{path.stat().st_size} bytes, expected a list of names")
    raw = path.read_bytes()
    try:
        if raw.startswith(_MARKS):
            raise ValueError("it is UTF-16")
        return raw.decode("utf-8-sig")  # some editors mark their files so
    except ValueError as err:
        raise CheckpointFormatError(f"not UTF-8 ({err}). Save it as UTF-8") from err


def _json_list(path: Path) -> list[str]:
    try:
        names = json.loads(_text(path))
    except CheckpointFormatError:
        raise
    except (ValueError, RecursionError) as err:
        raise CheckpointFormatError(f"not readable as JSON: {err}") from err
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointFormatError("expected one name a line, or a JSON list of names")
    return [name.strip() for name in names]
