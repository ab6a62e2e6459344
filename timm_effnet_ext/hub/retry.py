"""Asks the Hub again where that may help: after a broken connection, a server's own error, or too many requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from timm_effnet_ext.hub_errors import HUB_ERRORS, PASSING, hub_answer

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

PAUSES = (1, 4, 16)  # seconds before another attempt, where the Hub does not say how long; its client has its own
_MAX_PAUSE = 300  # seconds; who is asked to wait longer is told so instead


def patiently(ask: Callable[[], _T], *, once: bool = False) -> _T:
    """Ask, and ask again after what may pass; `once` is for what must not be done twice."""
    for pause in () if once else PAUSES:
        try:
            return ask()
        except (*HUB_ERRORS, RuntimeError) as err:
            wait = _wait(cause(err), pause)
            if wait is None:
                raise
            _logger.warning("%s; trying again in %d s", hub_answer(cause(err)), wait)
            time.sleep(wait)
    return ask()


def cause(err: BaseException) -> BaseException:
    """Return the Hub's error behind the RuntimeError that the client makes of a failed upload."""
    return err.__cause__ if isinstance(err, RuntimeError) and isinstance(err.__cause__, HUB_ERRORS) else err


def _wait(err: BaseException, pause: float) -> float | None:
    """Return how many seconds to wait after an error, or None where waiting does not help."""
    if not isinstance(err, HUB_ERRORS) or isinstance(err, (RepositoryNotFoundError, RevisionNotFoundError)):
        return None
    if not isinstance(err, HfHubHTTPError):
        return pause  # the connection
    asked = err.response.headers.get("Retry-After", "")
    wait = max(pause, float(asked)) if asked.isdigit() else pause
    return wait if err.response.status_code in PASSING and wait <= _MAX_PAUSE else None
