"""Errors of the Hub's client: what each says to a user, in one line, and what another attempt may not meet again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TypeVar

from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from timm_effnet_ext.errors import EffNetExtError, first_line
from timm_effnet_ext.hosts import is_download_of_another_length

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# What the client raises when the Hub refuses, breaks off or cannot be reached: `HTTPError` is its HTTP library's root.
HUB_ERRORS = (HTTPError, OfflineModeIsEnabled)
_GARBLED = (JSONDecodeError, UnicodeDecodeError)  # it raises these if someone else answers, perhaps a proxy

PAUSES = (1, 4, 16)  # seconds before another attempt, where the server does not say how long
_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses
_MAX_PAUSE = 300  # seconds; who is asked to wait longer is told so instead


def hub_answer(err: BaseException | None) -> str:
    """Return what went wrong as a clause that begins with "the Hub"."""
    if isinstance(err, RepositoryNotFoundError):
        repo = f"repository {err.repo_id!r}" if getattr(err, "repo_id", None) else "such repository"
        return f"the Hub shows no {repo}: it does not exist, or it is private or gated and needs a token that opens it"
    if isinstance(err, RevisionNotFoundError):
        return "the Hub shows no branch, tag or commit of that name in the repository"
    response = getattr(err, "response", None)
    if response is not None:
        said = " ".join((getattr(err, "server_message", None) or "").split())
        return f"the Hub answered {response.status_code}{said and f' ({said})'} for {response.url.path}"
    if isinstance(err, OfflineModeIsEnabled):
        return "the Hub was not asked: HF_HUB_OFFLINE is set"
    if isinstance(err, _GARBLED):
        return f"the Hub's answer is not one of a Hub ({first_line(err)})"
    return f"the Hub cannot be reached{f' ({first_line(err)})' if err else ''}"


def hub_error(err: BaseException) -> BaseException | None:
    """Return the Hub's error behind what its client raised, or None where there is none.

    The client makes another error of a failed upload or a file that it does not get, and stumbles over a refusal whose
    body is not as the Hub writes it.
    """
    if isinstance(err, HUB_ERRORS):
        return err
    behind = err.__cause__ or err.__context__
    if isinstance(behind, HUB_ERRORS):
        return behind
    return err if isinstance(err, _GARBLED) else None


def is_unreachable(err: BaseException) -> bool:
    """Whether an error of the Hub's says nothing about what was asked for: no answer, or one of a Hub that is down."""
    response = getattr(err, "response", None)
    return response is None or response.status_code >= 500


@contextmanager
def hub_explained(name: str) -> Iterator[None]:
    """Turn what the client raises over files of a repository into one line that says what to do.

    Raises:
        EffNetExtError: In place of the client's errors.
    """
    try:
        yield
    except RepositoryNotFoundError as err:
        raise EffNetExtError(f"{name}: {hub_answer(err)}. Check the name, or log in: hf auth login.") from err
    except RevisionNotFoundError as err:
        raise EffNetExtError(f"{name}: {hub_answer(err)}. Check what stands behind the @.") from err
    except (LocalEntryNotFoundError, RevisionResolutionError) as err:
        raise EffNetExtError(
            f"{name}: its weights are not in the cache and {hub_answer(err.__cause__)}. "
            "Connect once to fetch them, or name a folder that has them (for timm.create_model 'local-dir:FOLDER')."
        ) from err
    except EntryNotFoundError as err:
        raise EffNetExtError(f"{name}: the repository has no weight file: {hub_answer(err)}") from err
    except HUB_ERRORS as err:
        is_unknown = getattr(getattr(err, "response", None), "status_code", None) == 401
        advice = ". Is the token right? Log in again: hf auth login." if is_unknown else ""
        raise EffNetExtError(f"{name}: the download failed: {hub_answer(err)}{advice}") from err
    except OSError as err:
        if not is_download_of_another_length(err):
            raise
        raise EffNetExtError(f"{name}: the download failed: {first_line(err)}") from err


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
        except Exception as err:
            if done() > before:
                pauses = iter(PAUSES)
            found, pause = hub_error(err), next(pauses, None)
            if found is None or pause is None or (wait := _wait(found, pause)) is None:
                raise
            _logger.warning("%s; trying again in %d s", say(found), wait)
            time.sleep(wait)


def _wait(err: BaseException, pause: float) -> float | None:
    """Return how many seconds to wait after an error of the Hub's, or None where waiting does not help."""
    if isinstance(err, OfflineModeIsEnabled):
        return None
    response = getattr(err, "response", None)
    if response is None:
        return pause  # the connection, or who answers in the Hub's place
    asked = response.headers.get("Retry-After", "")
    wait = max(pause, float(asked)) if asked.isdigit() else pause
    return wait if response.status_code in _PASSING and wait <= _MAX_PAUSE else None
