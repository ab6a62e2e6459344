"""The exceptions of this package: callers may catch the root or one of its three kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Of terminals: ECMA-48 control sequences, and those of an operating system command.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?|\x1b.?")


class EffNetExtError(Exception):
    """Root of every error that this package raises about its input."""


class CheckpointFormatError(EffNetExtError, ValueError):
    """A file is not what it claims to be: cut, damaged, foreign, or with values no model can hold."""


class NameMappingError(EffNetExtError, LookupError):
    """Variables of a checkpoint and parameters of a model do not correspond one to one."""


class VerificationError(EffNetExtError, RuntimeError):
    """A converted model does not compute what its source computed."""


def plain(text: str) -> str:
    """Return foreign text for a message: without escape sequences and characters that a terminal acts upon."""
    return "".join(c if c.isprintable() else " " for c in _ESCAPES.sub("", text))


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """Return `names` sorted and joined, cut after `limit` with a count of the rest."""
    ordered = sorted(plain(str(name)) for name in names)
    shown = ", ".join(ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown}, … and {len(ordered) - limit} more"


def first_line(err: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return plain(next(iter(str(err).strip().splitlines()), type(err).__name__))
