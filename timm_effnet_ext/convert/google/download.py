"""One large file from a web server into a folder: whole, or kept to be continued, never taken for whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock, get_session

from timm_effnet_ext.convert.records import Progress
from timm_effnet_ext.errors import EffNetExtError, first_line
from timm_effnet_ext.files.hub import HUB_ERRORS, retry

_T = TypeVar("_T")

_TIMEOUT = 20  # seconds without a byte, before the user is told that it is tried again
_AS_IT_IS = {"Accept-Encoding": "identity"}  # so that lengths are those of the file
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Remote(NamedTuple):
    """What a server says of a file."""

    url: str
    size: int  # bytes
    version: str  # its ETag, else its time of change

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    def path(self, folder: Path) -> Path:
        """Return where it lies when it is whole; another version of it lies elsewhere."""
        key = sha256("\n".join(map(str, self)).encode()).hexdigest()[:16]
        return folder / f"{key}-{self.name}"


def look_up(url: str) -> Remote:
    """Return what the server says of a file, without fetching it.

    Raises:
        EffNetExtError: It is not there, is a web page, or the server cannot be reached.
    """

    def attempt() -> Remote:
        with _answer("HEAD", url) as answer:
            return _remote(url, answer.headers, _length(url, answer.headers))

    return _retry(url, attempt)


def fetch(remote: Remote, folder: Path, progress: Progress) -> Path:
    """Return where the file lies; it is downloaded unless it is there, from where an earlier attempt was cut.

    Raises:
        EffNetExtError: The server cannot be reached, gives up half-way, or gives another file than was looked up.
    """
    target = remote.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(target.with_name(f"{target.name}.lock")):  # a second process waits, then finds it
        if not target.is_file():
            partial = target.with_name(f"{target.name}.partial")
            with partial.open("ab") as file:
                _retry(remote.url, lambda: _complete(remote, file, progress), file.tell)
            os.replace(partial, target)
    return target


def _complete(remote: Remote, file: IO[bytes], progress: Progress) -> None:
    """Append what is missing, or begin again where the server does not continue."""
    have = file.tell()
    if have == remote.size:
        return
    headers = {"Range": f"bytes={have}-", "If-Range": remote.version} if have and remote.version else {}
    with _answer("GET", remote.url, headers) as answer:
        part = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        start, size = map(int, part.groups()) if part else (0, _length(remote.url, answer.headers))
        if _remote(remote.url, answer.headers, size) != remote or start not in (0, have):
            raise EffNetExtError(f"{remote.url}: is not what was announced any more. Try again")
        if start == 0:
            _empty(file)
        for chunk in answer.iter_raw():  # as it comes: gathered chunks would be lost with the connection
            if file.tell() + len(chunk) > remote.size:
                _empty(file)
                raise EffNetExtError(f"{remote.url}: more than the {remote.size} bytes that were announced came")
            file.write(chunk)
            progress(f"downloading {remote.name}", file.tell(), remote.size)
    if file.tell() != remote.size:
        raise HTTPError(f"{file.tell()} bytes came, {remote.size} were announced")


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


@contextmanager
def _answer(method: str, url: str, headers: Mapping[str, str] = {}) -> Iterator[Any]:
    """Send a request; the answer is one that gives the file or a part of it.

    The client is the Hub's, so that proxies and certificates that were set up for it serve here too.
    """
    with get_session().stream(method, url, headers={**_AS_IT_IS, **headers}, timeout=_TIMEOUT) as answer:
        # The client's own way, hf_raise_for_status, expects a body as the Hub sends it; this is another server.
        if answer.status_code not in (200, 206):
            said = f"the server answered {answer.status_code} {answer.reason_phrase}"
            raise HfHubHTTPError(said, response=answer)
        yield answer


def _remote(url: str, headers: Mapping[str, str], size: int) -> Remote:
    if headers.get("Content-Type", "").startswith("text/html"):
        raise EffNetExtError(f"{url}: the server sends a web page instead of the file")
    return Remote(url, size, headers.get("ETag") or headers.get("Last-Modified") or "")


def _length(url: str, headers: Mapping[str, str]) -> int:
    length = headers.get("Content-Length", "")
    if not length.isdigit():
        raise EffNetExtError(f"{url}: the server does not say how long the file is (Content-Length {length!r})")
    return int(length)


def _retry(url: str, attempt: Callable[[], _T], done: Callable[[], int] = lambda: 0) -> _T:
    """Attempt again as long as bytes come, and a few times more."""
    try:
        return retry(attempt, say=lambda err: f"{url}: {_said(err)}", done=done)
    except HUB_ERRORS as err:
        kept = f" {done()} bytes are kept: run it again to continue." if done() else ""
        raise EffNetExtError(f"{url}: {_said(err)}.{kept}") from err


def _said(err: BaseException) -> str:
    return "not downloaded: HF_HUB_OFFLINE is set" if isinstance(err, OfflineModeIsEnabled) else first_line(err)
