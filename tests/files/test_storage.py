"""storage.py: folders appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from tests.processes import obey_modes, python
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.storage import exchange, new_folder, sha256

OURS = ("a", "b")
OPENED = (
    "import pathlib, sys, timm_effnet_ext.files.storage as s; s.new_folder(pathlib.Path(sys.argv[1]), ()).__enter__()"
)


def test_a_digest_is_that_of_the_file(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)  # more than is read at once
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_a_folder_appears_when_it_is_done(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with new_folder(target, OURS) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
        assert folder.parent == target.parent  # the same file system, so that a rename is enough
    assert (target / "a").read_text() == "1"
    assert list(target.parent.iterdir()) == [target]


def test_the_folder_that_one_stands_in_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with new_folder(Path(), OURS) as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_the_folder_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with new_folder(tmp_path / "out", OURS):
        pass
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out", OURS) as folder:
            (folder / "a").write_text("1")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_of_two_at_work_on_one_target_one_wins_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def race() -> None:
        with new_folder(target, OURS) as slow:
            (slow / "a").write_text("slow")
            with new_folder(target, OURS) as fast:
                (fast / "a").write_text("fast")

    with pytest.raises(EffNetExtError, match="exists already"):
        race()
    assert (target / "a").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_came_meanwhile_is_not_swept_away(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with new_folder(target, OURS) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(EffNetExtError, match="holds thesis"), new_folder(target, OURS, overwrite=True):
        (target / "thesis").write_text("years")
    assert {path.name for path in target.iterdir()} == {"a", "thesis"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_only_folders_are_replaced(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("x") if kind == "file" else target.symlink_to(tmp_path)
    with pytest.raises(EffNetExtError, match="is no folder"), new_folder(target, OURS, overwrite=True):
        pass


def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    exchange(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "who").read_text() for name in "ab"] == ["b", "a"]


def test_two_folders_change_places_where_the_system_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **kwargs: object())
    test_two_folders_change_places(tmp_path)


def test_a_folder_that_may_not_be_written_is_an_os_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = python("-c", OPENED, tmp_path / "out", preexec_fn=obey_modes)
    assert f"PermissionError: [Errno 13] Permission denied: '{tmp_path}/.out-" in done.stderr
