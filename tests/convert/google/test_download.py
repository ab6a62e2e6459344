"""Downloads through a server that fails as it is told to: whole, continued, or refused with a message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.archive_server import FileServer
from tests.faulty_server import Fault, serving
from timm_effnet_ext.convert.google.download import fetch, look_up
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub import PAUSES

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving(FileServer()) as server:
        server.files["a/net.tgz"] = CONTENT
        yield server


def get(server: FileServer, folder: Path) -> Path:
    """Look up and fetch the server's file."""
    return fetch(look_up(f"{server.url}/a/net.tgz"), folder, lambda step, done, total: None)


def ranges(server: FileServer) -> int:
    """Return how many requests asked for the file's content."""
    return sum(request.startswith("GET") for request in server.requests)


def test_a_file_is_fetched_once(server: FileServer, tmp_path: Path) -> None:
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert get(server, tmp_path).name.endswith("-net.tgz")
    assert ranges(server) == 1


def test_another_version_is_another_file(server: FileServer, tmp_path: Path) -> None:
    first = get(server, tmp_path)
    server.files["a/net.tgz"] = b"new" * 10
    second = get(server, tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b"new" * 10)


def test_progress_counts_the_bytes_of_the_file(server: FileServer, tmp_path: Path) -> None:
    server.faults.append(Fault("GET", cut_after=1000))
    told: list[tuple[str, int, int]] = []
    fetch(look_up(f"{server.url}/a/net.tgz"), tmp_path, lambda *what: told.append(what))
    assert told[-1] == ("downloading net.tgz", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_cut_download_is_continued(server: FileServer, tmp_path: Path) -> None:
    # More cuts than there are pauses: bytes that come are a reason to go on.
    server.faults.append(Fault("GET", cut_after=50_000, times=len(PAUSES) + 3))
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == len(PAUSES) + 4


def test_an_interrupted_download_is_continued_by_the_next_run(server: FileServer, tmp_path: Path) -> None:
    server.faults += [Fault("GET", cut_after=100_000), Fault("GET", cut_after=0, times=1000)]
    with pytest.raises(EffNetExtError, match=r"a/net.tgz: .*\. 100000 bytes are kept: run it again to continue"):
        get(server, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("net.tgz")]
    server.faults[:] = [Fault("GET", cut_after=len(CONTENT) - 100_000 - 1)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_server_that_does_not_continue_is_read_from_the_start(server: FileServer, tmp_path: Path) -> None:
    server.faults.append(Fault("GET", cut_after=1000))
    server.continues = False
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_file_that_changes_between_two_parts_is_not_glued(server: FileServer, tmp_path: Path) -> None:
    remote = look_up(f"{server.url}/a/net.tgz")
    server.faults += [Fault("GET", cut_after=1000), Fault("GET", cut_after=0, times=1000)]
    with pytest.raises(EffNetExtError, match="1000 bytes are kept"):
        fetch(remote, tmp_path, lambda *what: None)
    server.faults.clear()
    server.files["a/net.tgz"] = CONTENT[::-1]
    with pytest.raises(EffNetExtError, match=r"is not what was announced any more. Try again"):
        fetch(remote, tmp_path, lambda *what: None)
    assert get(server, tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"headers": {"Content-Range": "bytes 7-511999/512000"}}, "is not what was announced any more"),
        ({"headers": {"Content-Range": "bytes 1000-511999/512001"}}, "is not what was announced any more"),
        (
            {"body": CONTENT + b"more", "headers": {"Content-Range": "bytes 1000-511999/512000"}},
            "more than the 512000 bytes that were announced came",
        ),
    ],
    ids=["begins elsewhere", "of another length", "goes too far"],
)
def test_a_part_that_does_not_fit_is_not_appended(
    server: FileServer, tmp_path: Path, part: dict[str, Any], message: str
) -> None:
    server.faults += [Fault("GET", cut_after=1000), Fault("GET", **part)]
    with pytest.raises(EffNetExtError, match=message):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_shorter_than_it_says_is_continued(server: FileServer, tmp_path: Path) -> None:
    fault = Fault("GET", body=CONTENT[:-1], headers={"Content-Range": f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"})
    server.faults += [Fault("GET", cut_after=1000), fault]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == 3


def test_a_slow_server_is_waited_for(server: FileServer, tmp_path: Path) -> None:
    server.faults.append(Fault("GET", pause=0.02))
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stumbles_is_asked_again(server: FileServer, tmp_path: Path, status: int) -> None:
    server.faults += [Fault("HEAD", status=status), Fault("GET", status=status)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_server_that_says_how_long_to_wait_is_obeyed(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    server.faults.append(Fault("HEAD", status=503, headers={"Retry-After": "20"}))
    get(server, tmp_path)
    assert waited == [20]


def test_offline_nothing_is_asked_or_waited_for(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EffNetExtError, match=r"a/net.tgz: not downloaded: HF_HUB_OFFLINE is set"):
        get(server, tmp_path)
    assert (waited, server.requests) == ([], [])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("HEAD", status=404), "the server answered 404 Not Found"),
        (Fault("HEAD", status=403), "the server answered 403 Forbidden"),
        (Fault("HEAD", status=500, times=1000), "the server answered 500."),
        (Fault("HEAD", headers={"Content-Type": "text/html"}), "the server sends a web page instead of the file"),
        (Fault("HEAD", headers={"Content-Length": ""}), "the server does not say how long the file is"),
        (Fault("GET", body=CONTENT[:-1]), "is not what was announced any more"),
        (Fault("GET", body=CONTENT + b"more"), "is not what was announced any more"),
        (Fault("GET", headers={"Content-Type": "text/html"}), "the server sends a web page instead of the file"),
        (Fault("GET", lose_answer=True, times=1000), "disconnected"),
    ],
    ids=lambda case: case.pattern if isinstance(case, Fault) else case,
)
def test_no_file_and_why(server: FileServer, tmp_path: Path, fault: Fault, message: str) -> None:
    server.faults.append(fault)
    with pytest.raises(EffNetExtError, match=re.escape(f"{server.url}/a/net.tgz: ") + f".*{message}") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("net.tgz")]


def test_a_server_that_is_down(server: FileServer, tmp_path: Path) -> None:
    server.stop()
    with pytest.raises(EffNetExtError, match="refused"):
        get(server, tmp_path)


def test_two_at_once_download_it_once(server: FileServer, tmp_path: Path) -> None:
    server.faults.append(Fault("GET", pause=0.02))
    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(lambda _: get(server, tmp_path), range(3)))
    assert len(set(paths)) == ranges(server) == 1
