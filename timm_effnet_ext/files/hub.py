"""The Hub, through its client: files of a repository, another attempt where one may help, each error in one line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from json import JSONDecodeError
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_line
from timm_effnet_ext.files.hub_name import HubName
from timm_effnet_ext.files.storage import sha256
from timm_effnet_ext.hosts import announced_hash, is_download_of_another_length

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# What the client raises when the Hub refuses, breaks off or cannot be reached: `HTTPError` is its HTTP library's root.
HUB_ERRORS = (HTTPError, OfflineModeIsEnabled)
_GARBLED = (JSONDecodeError, UnicodeDecodeError)  # it raises these if someone else answers, perhaps a proxy

PAUSES = (1, 4, 16)  # seconds before another attempt, where the server does not say how long
_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses
_MAX_PAUSE = 300  # seconds; who is asked to wait longer is told so instead

_SHA1_DIGITS, _CHUNK = 40, 1 << 20


class Listing(NamedTuple):
    """The files of a repository in one state; the revision in `name` is a commit. `note` says what is not known."""

    name: HubName
    files: tuple[str, ...]
    note: str | None = None


def list_files(name: HubName) -> Listing:
    """Return what a repository holds, by the Hub, or by the cache where the Hub cannot be asked.

    Raises:
        EffNetExtError: The Hub does not show it, or cannot be asked and nothing of it is in the cache.
    """
    cached = _cached(name)
    with hub_explained(str(name)):
        try:
            return retry(lambda: _ask(name))
        except Exception as err:
            found = hub_error(err)
            if found is None or not is_unreachable(found):
                raise
            if cached is None:
                raise LocalEntryNotFoundError(str(name)) from found
            note = f"{hub_answer(found)}; of the repository, what lies in the cache was looked at"
    files = (path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file())
    return Listing(name._replace(revision=cached.name), tuple(sorted(files)), note)


def is_private(name: HubName) -> bool:
    """Whether a repository is for its owner's eyes alone.

    Raises:
        EffNetExtError: The Hub does not show it, or cannot be asked.
    """
    with hub_explained(str(name)):
        return bool(retry(lambda: HfApi(library_name="timm_effnet_ext").model_info(name.repo_id)).private)


def fetch(listing: Listing, files: Iterable[str], tell: Callable[[str], None]) -> Path:
    """Return the folder in which files of a repository lie under their names there; links, perhaps, to elsewhere.

    `tell` is given the name of each before it is downloaded.

    Raises:
        EffNetExtError: One cannot be had.
        CheckpointFormatError: One arrived with another hash than the Hub announced, and is gone from the cache.
    """
    repo, commit = listing.name.repo_id, listing.name.revision
    folder = Path()
    for file in files:
        link = try_to_load_from_cache(repo, file, revision=commit)
        if not isinstance(link, str):
            tell(file)
            link = _download(listing.name, file)
        folder = Path(link).parents[file.count("/")]
    return folder


def check_hash(link: Path, name: str) -> None:
    """Raise unless a file in the cache has the hash that the Hub announced; the client compares the length only.

    The hash of a large file is its sha256, of a small one git's, the sha1 of a blob; a mirror may give the plain sha1.

    Raises:
        CheckpointFormatError: It has another one, and is gone from the cache.
    """
    path, announced = link.resolve(), announced_hash(link)
    if announced and announced not in (_sha1s(path) if len(announced) == _SHA1_DIGITS else [sha256(path)]):
        path.unlink()
        raise CheckpointFormatError(f"{name} arrived with another sha256 than the Hub announced. Try again")


def _ask(name: HubName) -> Listing:
    api = HfApi(library_name="timm_effnet_ext")
    info = api.model_info(name.repo_id, revision=name.revision)
    api.resolve_revision(name.repo_id, revision=name.revision)  # the cache remembers it, for when nobody can be asked
    return Listing(name._replace(revision=info.sha), tuple(file.rfilename for file in info.siblings or ()))


def _cached(name: HubName) -> Path | None:
    """Return the folder of a repository's revision in the cache, which is called like the commit."""
    try:
        return Path(snapshot_download(name.repo_id, revision=name.revision, local_files_only=True))
    except IncompleteSnapshotError as err:
        return Path(err.snapshot_path)
    except LocalEntryNotFoundError:
        return None


def _download(name: HubName, file: str) -> str:
    with hub_explained(str(name)):
        link = retry(lambda: hf_hub_download(name.repo_id, file, revision=name.revision))
    check_hash(Path(link), f"{name}: {file}")
    return link


def _sha1s(path: Path) -> list[str]:
    """Return git's hash of a file, and that of its bytes alone."""
    digests = [sha1(b"blob %d\0" % path.stat().st_size), sha1()]
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in digests:
                digest.update(chunk)
    return [digest.hexdigest() for digest in digests]


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
