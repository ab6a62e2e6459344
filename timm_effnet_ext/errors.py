"""The exceptions of this package: callers may catch the root or one of its three kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])"
)  # ECMA-48: CSI, OSC, short


class EffNetExtError(Exception):
    """Root of every error that this package raises about its input.

    Its message is one line: where, what is wrong, and what to do. Control characters that a file brings are not in it.
    """

    is_located = False  # whether `located` has put a file before its message

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class CheckpointFormatError(EffNetExtError, ValueError):
    """A file is not what it claims to be: cut, damaged, foreign, or with values no model can hold."""


class NameMappingError(EffNetExtError, LookupError):
    """Variables of a checkpoint and parameters of a model do not correspond one to one."""


class VerificationError(EffNetExtError, RuntimeError):
    """A converted or exported model does not compute what its source computes."""


@contextmanager
def located(where: Path | str) -> Iterator[None]:
    """Put before the message of an error what it is about: a file, or a text that says which part of a file.

    A message that begins with a file is left as it is, so of several files around it the innermost counts. The error
    itself stays, with its kind and cause. What may raise errors about something else, such as the block of a caller,
    does not belong inside.
    """
    try:
        yield
    except EffNetExtError as err:
        if not err.is_located:
            err.args = (plain(f"{where}: {err}"),)
            err.is_located = isinstance(where, Path)
        raise


def plain(text: str) -> str:
    """Return `text` as one line that does nothing to a terminal: no escape sequences, spaces for control characters."""
    return "".join(c if c.isprintable() else " " for c in _ESCAPES.sub("", text))


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """Return `names` sorted and joined, cut after `limit` with a count of the rest."""
    ordered = sorted(map(str, names))
    shown = plain(", ".join(ordered[:limit]))
    return shown if len(ordered) <= limit else f"{shown}, … and {len(ordered) - limit} more"


def first_line(err: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    lines = (plain(line).strip() for line in str(err).splitlines())
    return next(filter(None, lines), type(err).__name__)
