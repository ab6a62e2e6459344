"""The exceptions of this package: callers may catch the root or one of its three kinds."""

from __future__ import annotations

from collections.abc import Iterable


class EffNetExtError(Exception):
    """Root of every error that this package raises about its input."""


class CheckpointFormatError(EffNetExtError, ValueError):
    """A file is not what it claims to be: cut, damaged, foreign, or with values no model can hold."""


class NameMappingError(EffNetExtError, LookupError):
    """Variables of a checkpoint and parameters of a model do not correspond one to one."""


class VerificationError(EffNetExtError, RuntimeError):
    """A converted model does not compute what its source computed."""


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """Return `names` sorted and joined, cut after `limit` with a count of the rest."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown}, … and {len(ordered) - limit} more"


def first_line(err: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return next(iter(str(err).strip().splitlines()), type(err).__name__)
