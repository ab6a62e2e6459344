"""What a path names is recognised by itself, and nothing in a checkpoint or an archive leads out of its folder.

Archives are unpacked only as far as a checkpoint can grow.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from tests._bundle_writer import write_bundle
from tests.convert._sources import DATA, tiny_bundle, tiny_variables
from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.convert.readers.tensorflow.bundle import Bundle
from timm_effnet_ext.convert.readers.tensorflow.source import latest, open_bundle, recognise
from timm_effnet_ext.convert.readers.tensorflow.variables import format_of
from timm_effnet_ext.errors import CheckpointFormatError

PREFIX = "model.ckpt-7"


def opened(path: Path) -> AbstractContextManager[Bundle]:
    source = recognise(path)
    assert source is not None
    return open_bundle(source)


@pytest.mark.parametrize("name", [PREFIX, f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001", ""])
def test_a_bundle_is_found_by_any_of_its_names(name: str, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    with opened(tmp_path / name) as bundle:
        assert bundle.prefix == tmp_path / PREFIX


@pytest.mark.parametrize("name", ["", "checkpoint"])
def test_the_state_file_says_which_of_two(name: str, tmp_path: Path) -> None:
    for step in (1, 2):
        write_bundle(tmp_path / f"model.ckpt-{step}", {"w": np.full(1, step, "f4")})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\nall_model_checkpoint_paths: "x"\n')
    with opened(tmp_path / name) as bundle:
        assert bundle["w"].read() == [1]


def test_two_without_a_state_file_must_be_named(tmp_path: Path) -> None:
    for step in (1, 2):
        write_bundle(tmp_path / f"model.ckpt-{step}", {"w": np.ones(1, "f4")})
    with pytest.raises(CheckpointFormatError, match=r"holds 2 checkpoints \(model\.ckpt-1\.index, .*: name one"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    "named", ["/somewhere/else/model.ckpt-7", "../elsewhere/model.ckpt-7", PREFIX, "./model.ckpt-7"]
)
def test_paths_of_the_machine_that_trained_are_looked_for_here(named: str, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"')
    assert latest(tmp_path / "checkpoint").name == PREFIX
    assert latest(tmp_path / "checkpoint").parent.resolve() == tmp_path.resolve()


def test_a_link_in_the_state_file_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    (tmp_path / "inside" / "checkpoint").write_text('model_checkpoint_path: "link/model.ckpt-7"')
    with pytest.raises(CheckpointFormatError, match="leads out of its folder"):
        latest(tmp_path / "inside" / "checkpoint")


@pytest.mark.parametrize("text", ["", 'model_checkpoint_path: ""', 'model_checkpoint_path: ".."', "nonsense"])
def test_a_state_file_without_a_path_says_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text(text)
    with pytest.raises(CheckpointFormatError, match="no usable model_checkpoint_path"):
        latest(tmp_path / "checkpoint")


def test_octal_escapes_are_utf_8(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m\\303\\266del"')
    assert latest(tmp_path / "checkpoint").name == "mödel"


def test_nothing_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("hello")
    assert recognise(tmp_path / "file.txt") is None
    with (
        pytest.raises(CheckpointFormatError, match="no such file, folder or checkpoint prefix"),
        open_checkpoint(tmp_path / "no"),
    ):
        pass


def _archive(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def _members(tmp_path: Path, folder: str = "efficientnet-b0/") -> dict[str, bytes]:
    tiny_bundle(tmp_path / "made")
    return {f"{folder}{path.name}": path.read_bytes() for path in sorted((tmp_path / "made").iterdir())}


@pytest.mark.parametrize("mode", ["w:gz", "w:"])
@pytest.mark.parametrize("folder", ["", "efficientnet-b0/", "./a/b/"])
def test_archives_are_opened_and_leave_nothing(
    mode: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    members = {**_members(tmp_path, folder), f"{folder}README.txt": b"hello", f"{folder}events.out": b"x" * 100}
    with opened(_archive(tmp_path / "a.tgz", members, mode)) as bundle:
        assert len(bundle) == len(tiny_variables())
    assert list((tmp_path / "tmp").iterdir()) == []


def _special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"../evil.index": b"x"}, "leads out of the archive"),
        ({"/evil.index": b"x"}, "leads out of the archive"),
        ({"a/../../evil.index": b"x"}, "leads out of the archive"),
        ({"a\\evil.index": b"x"}, "leads out of the archive"),
        ({"l": _special("link.index", tarfile.SYMTYPE, "/etc/passwd")}, "no plain file"),
        ({"l": _special("link.index", tarfile.LNKTYPE, "/etc/passwd")}, "no plain file"),
        ({"l": _special("null.index", tarfile.CHRTYPE)}, "no plain file"),
        ({"l": _special("fifo.index", tarfile.FIFOTYPE)}, "no plain file"),
        ({"a.index": b"x", "A/../a.index": b"y"}, "leads out of the archive"),
        ({"a.index": b"x", "./a.index": b"y"}, "is there twice"),
        ({"a.index": b"x", "a.index/b.index": b"y"}, "is there twice"),
    ],
)
def test_members_that_lead_elsewhere_are_refused(
    member: dict[str, bytes | tarfile.TarInfo], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointFormatError, match=message), opened(_archive(tmp_path / "a.tgz", member)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_an_archive_that_grows_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_effnet_ext.convert.readers.tensorflow.source.MAX_UNPACKED_FLOOR", 1 << 20)
    bomb = _archive(tmp_path / "a.tgz", {"b.data-00000-of-00001": bytes(64 << 20)})
    with pytest.raises(CheckpointFormatError, match="unpacks to more than"), opened(bomb):
        pass


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_archive_says_so(share: float, tmp_path: Path) -> None:
    whole = _archive(tmp_path / "a.tgz", dict(_members(tmp_path))).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointFormatError, match=r"cut\.tgz: broken archive"), open_checkpoint(tmp_path / "cut.tgz"):
        pass


def test_an_archive_of_two_checkpoints_is_refused(tmp_path: Path) -> None:
    both = {**_members(tmp_path, "a/"), **_members(tmp_path, "b/")}
    with (
        pytest.raises(CheckpointFormatError, match=r"holds 2 checkpoints, expected one"),
        opened(_archive(tmp_path / "a.tgz", dict(both))),
    ):
        pass


def test_a_saved_model_in_an_archive_is_one(tmp_path: Path) -> None:
    shutil.copytree(DATA / "automl_v2_b0_tf2" / "saved_model", tmp_path / "model")
    members = {str(p.relative_to(tmp_path)): p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}
    with opened(_archive(tmp_path / "a.tgz", dict(members))) as bundle:
        assert format_of(bundle) == "SavedModel"
