"""What a path names is recognised by itself, and no name inside a checkpoint leads out of its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests._bundle_writer import write_bundle
from tests.convert._sources import tiny_bundle
from timm_effnet_ext.convert.readers.tensorflow.source import latest, open_bundle, recognise
from timm_effnet_ext.errors import CheckpointFormatError

PREFIX = "model.ckpt-7"


@pytest.mark.parametrize("name", [PREFIX, f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001", ""])
def test_a_bundle_is_found_by_any_of_its_names(name: str, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    with open_bundle(tmp_path / name) as bundle:
        assert bundle.prefix == tmp_path / PREFIX


@pytest.mark.parametrize("name", ["", "checkpoint"])
def test_the_state_file_says_which_of_two(name: str, tmp_path: Path) -> None:
    for step in (1, 2):
        write_bundle(tmp_path / f"model.ckpt-{step}", {"w": np.full(1, step, "f4")})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\nall_model_checkpoint_paths: "x"\n')
    with open_bundle(tmp_path / name) as bundle:
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
        open_bundle(tmp_path / "no"),
    ):
        pass
