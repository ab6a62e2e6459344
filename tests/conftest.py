"""Keeps every test away from the real Hub: its client is pointed at a local one before anything imports it."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive_server import FileServer
from tests.faulty_server import serving
from tests.hub_server import LocalHub

assert "huggingface_hub" not in sys.modules  # it reads its environment when it is imported
_PORT = socket.socket()  # bound and never listening: the system gives its port to nobody else, also between two tests
_PORT.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a Hub can listen there
_PORT.bind(("127.0.0.1", 0))
HUB_PORT = _PORT.getsockname()[1]
_HOME = tempfile.mkdtemp(prefix="timm_effnet_ext-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{HUB_PORT}", HF_HOME=_HOME, HF_HUB_DISABLE_XET="1")
for _name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "TIMM_EFFNET_EXT_HUB"):
    os.environ.pop(_name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what turns the sample of the reliability campaign into the whole."""
    parser.addoption("--campaign", type=int, metavar="SEED", help="run tests/campaign at its full size, with this seed")


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub where the client looks for it, and an empty cache; the client's pauses between attempts are left out."""
    from huggingface_hub import constants

    folder, cache = tmp_path / "hub", tmp_path / "hub_cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))  # for processes that a test starts
    with serving(LocalHub(folder, HUB_PORT)) as hub:
        yield hub


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server in place of Google's, and an empty cache of archives, `tmp_path / "assets"`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving(FileServer()) as server:
        monkeypatch.setenv("TIMM_EFFNET_EXT_MIRROR", server.url)
        yield server


@pytest.fixture
def server(google: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """Google's server with one archive, that of B0, and alice's token."""
    from tests._google_archive import archive, variables
    from timm_effnet_ext.convert.google.archives import find

    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    google.files[find("efficientnet_b0.in1k").path] = archive(variables())
    return google
