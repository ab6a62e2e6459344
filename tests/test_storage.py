"""storage.py: tensors arrive in safetensors as they are, folders appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError
from timm_effnet_ext.storage import Slot, _exchange, new_folder, sha256, write_safetensors

OURS = ("a", "b")


def _slot(name: str, values: np.ndarray, dtype: str = "F32") -> Slot:
    return Slot(name, dtype, values.shape, lambda: values)


@pytest.mark.parametrize("perm", [(0, 1, 2, 3), (3, 2, 0, 1), (2, 3, 0, 1), (3, 1, 2, 0)])
def test_any_view_is_written_by_its_elements_not_by_its_bytes(perm: tuple[int, ...], tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5).transpose(perm)
    write_safetensors(tmp_path / "f", [_slot("a", values)])
    assert np.array_equal(load_file(tmp_path / "f")["a"], values)


@pytest.mark.parametrize(
    "values", [np.zeros((), "i8"), np.zeros((0, 3), "f4"), np.ones(1, ">f4"), np.ones(4, "f8")[::2]]
)
def test_scalars_empty_and_foreign_arrays_arrive(values: np.ndarray, tmp_path: Path) -> None:
    slots = [_slot("before", np.ones(3, "f4")), _slot("x", values, "I64" if values.dtype.kind == "i" else "F32")]
    write_safetensors(tmp_path / "f", slots)
    assert np.array_equal(load_file(tmp_path / "f")["x"], values)


def test_a_digest_is_that_of_the_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f", [_slot("ä", np.ones(3, "f4"))])
    assert sha256(tmp_path / "f") == hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest()


def test_what_reads_otherwise_than_it_was_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = iter(range(9))
    monkeypatch.setattr("google_crc32c.value", lambda data: next(sums))
    with pytest.raises(CheckpointFormatError, match="reads otherwise than it was written"):
        write_safetensors(tmp_path / "f", [_slot("a", np.ones(3, "f4"))])


def test_one_tensor_at_a_time_is_asked_for(tmp_path: Path) -> None:
    alive: list[str] = []

    def load(name: str) -> np.ndarray:
        alive.append(name)
        return np.ones(2, "f4")

    slots = [Slot(name, "F32", (2,), lambda name=name: load(name)) for name in "abc"]

    def each(given: object) -> object:
        for n, slot in enumerate(slots):
            assert len(alive) == n
            yield slot

    write_safetensors(tmp_path / "f", slots, each=each)


def test_another_shape_than_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match=r"a: shape \(2,\), expected \(3,\)"):
        write_safetensors(tmp_path / "f", [Slot("a", "F32", (3,), lambda: np.ones(2, "f4"))])


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
    _exchange(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "who").read_text() for name in "ab"] == ["b", "a"]


def test_two_folders_change_places_where_the_system_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **kwargs: object())
    test_two_folders_change_places(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_os_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError), new_folder(tmp_path / "out", OURS):
        pass
