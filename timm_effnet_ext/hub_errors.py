"""Errors of the Hub's client: what each says to a user, in one line, and what another attempt may not meet again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from timm_effnet_ext.errors import first_line

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# What the client raises when the Hub refuses, breaks off or cannot be reached: `HTTPError` is its HTTP library's root.
HUB_ERRORS = (HTTPError, OfflineModeIsEnabled)

PAUSES = (1, 4, 16)  # seconds before another attempt, where the server does not say how long
_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses
_MAX_PAUSE = 300  # seconds; who is asked to wait longer is told so instead


def hub_answer(err: BaseException | None) -> str:
    """Return what went wrong as a clause that begins with "the Hub"."""
    if isinstance(err, RepositoryNotFoundError):
        repo = f"repository {err.repo_id!r}" if getattr(err, "repo_id", None) else "such repository"
        return f"the Hub shows no {repo}: it does not exist, or it is private or gated and needs a token that opens it"
    if isinstance(err, HfHubHTTPError):
        said = " ".join((err.server_message or "").split())
        return f"the Hub answered {err.response.status_code}{said and f' ({said})'} for {err.response.url.path}"
    if isinstance(err, OfflineModeIsEnabled):
        return "the Hub was not asked: HF_HUB_OFFLINE is set"
    return f"the Hub cannot be reached{f' ({first_line(err)})' if err else ''}"


def cause(err: BaseException) -> BaseException:
    """Return the Hub's error behind the RuntimeError that the client makes of a failed upload."""
    return err.__cause__ if isinstance(err, RuntimeError) and isinstance(err.__cause__, HUB_ERRORS) else err


def retry(
    attempt: Callable[[], _T],
    *,
    say: Callable[[BaseException], str] = hub_answer,
    done: Callable[[], int] = lambda: 0,
    once: bool = False,
) -> _T:
    """Attempt again after a broken connection, a server's own error, or too many requests; in the end raise that.

    Args:
        attempt: What asks a server through the Hub's client.
        say: What the user is told of an error before the next attempt.
        done: How far it is; where an attempt got further, the next ones are counted anew.
        once: It must not be done twice.
    """
    pauses = iter(() if once else PAUSES)
    while True:
        before = done()
        try:
            return attempt()
        except (*HUB_ERRORS, RuntimeError) as err:
            if done() > before:
                pauses = iter(PAUSES)
            wait = _wait(cause(err), next(pauses, None))
            if wait is None:
                raise
            _logger.warning("%s; trying again in %d s", say(cause(err)), wait)
            time.sleep(wait)


def _wait(err: BaseException, pause: float | None) -> float | None:
    """Return how many seconds to wait after an error, or None where waiting does not help."""
    if pause is None or not isinstance(err, HTTPError):
        return None
    if not isinstance(err, HfHubHTTPError):
        return pause  # the connection
    asked = err.response.headers.get("Retry-After", "")
    wait = max(pause, float(asked)) if asked.isdigit() else pause
    return wait if err.response.status_code in _PASSING and wait <= _MAX_PAUSE else None
