"""Whatever a source is, an error begins with the file that is at fault, and what is raised beside it stays as it is."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests._bundle_writer import write_bundle
from tests.campaign.inputs import INPUTS, hub_folder
from tests.convert._sources import tiny_bundle
from tests.convert.readers.keras._files import folder as keras_folder
from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.errors import EffNetExtError

SOURCES = {kind.name: kind.make for kind in INPUTS}
KINDS = ("bundle index", ".tgz", ".h5, Keras 3", ".keras", ".pth", "safetensors", "config.json for convert")
DATA = ".data-00000-of-00001"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_raised_while_a_source_is_open_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    file = SOURCES[kind](tmp_path / "source")
    source = file.parent if file.name == "config.json" else file
    with pytest.raises(EffNetExtError, match=r"^mine$"), open_checkpoint(source):
        raise EffNetExtError("mine")


def cut(file: Path, size: int = 100) -> None:
    file.write_bytes(file.read_bytes()[:size])


def cut_index(folder: Path) -> str:
    cut(folder / f"{tiny_bundle(folder).name}.index")
    return ""


def no_data(folder: Path) -> str:
    (folder / f"{tiny_bundle(folder).name}{DATA}").unlink()
    return ""


def cut_data(folder: Path) -> str:
    cut(folder / f"{tiny_bundle(folder).name}{DATA}")
    return ""


def wrong_state(folder: Path) -> str:
    tiny_bundle(folder)
    (folder / "checkpoint").write_text("nonsense")
    return ""


def two_bundles(folder: Path) -> str:
    for name in ("one", "two"):
        write_bundle(folder / name, {"w": np.ones(1, "f4")})
    return ""


def packed(fill: Callable[[Path], str], inner: str) -> Callable[[Path], str]:
    """Return what writes an archive of the files that `fill` writes, below `inner` or at its top."""

    def pack(folder: Path) -> str:
        fill(folder / "made")
        with tarfile.open(folder / "a.tgz", "w:gz") as tar:
            for path in (folder / "made").iterdir():
                tar.add(path, f"{inner}{path.name}")
        shutil.rmtree(folder / "made")
        return "a.tgz"

    return pack


def cut_metadata(folder: Path) -> str:
    shutil.copytree(keras_folder() / "keras2_nested_saved", folder, dirs_exist_ok=True)
    cut(folder / "keras_metadata.pb", 2000)
    return ""


def edited_h5(edit: Callable[[h5py.File], object], compression: int) -> Callable[[Path], str]:
    """Return what writes a .keras file with other weights."""

    def write(folder: Path) -> str:
        with zipfile.ZipFile(keras_folder() / "keras3_flat.keras") as archive:
            archive.extractall(folder / "made")
        with h5py.File(folder / "made" / "model.weights.h5", "a") as file:
            edit(file)
        with zipfile.ZipFile(folder / "a.keras", "w", compression) as out:
            for path in (folder / "made").iterdir():
                out.write(path, path.name)
        shutil.rmtree(folder / "made")
        return "a.keras"

    return write


def link(file: h5py.File) -> None:
    file["a"] = h5py.SoftLink("/b")


def big_endian(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = np.zeros((32, 5), ">f4")


def cut_weights(folder: Path) -> str:
    folder.rmdir()
    cut(hub_folder(folder).with_name("model.safetensors"), 1000)
    return ""


def wrong_config(folder: Path) -> str:
    folder.rmdir()
    hub_folder(folder).write_text("[]")
    return ""


def wrong_setting(folder: Path) -> str:
    folder.rmdir()
    config = hub_folder(folder)
    config.write_text(json.dumps({**json.loads(config.read_text()), "problem_type": "guess"}))
    return ""


def wrong_names(folder: Path) -> str:
    save_file({"conv_stem.weight": torch.ones(1)}, folder / "last.safetensors")
    (folder / "class_names.txt").write_text("ant\n\nbee")
    return "last.safetensors"


def no_plain_numbers(folder: Path) -> str:
    torch.save({"conv_stem.weight": torch.eye(2).to_sparse()}, folder / "pytorch_model.bin")
    return ""


def no_state_dict(folder: Path) -> str:
    torch.save([1], folder / "a.pth")
    return "a.pth"


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (cut_index, "/model.ckpt-7.index: not a TensorFlow checkpoint index, or cut: 100 bytes"),
        (no_data, f"/model.ckpt-7{DATA}: no such file"),
        (cut_data, f"/model.ckpt-7{DATA}: 'efficientnetv2-b0/"),
        (wrong_state, "/checkpoint: no usable model_checkpoint_path"),
        (two_bundles, ": holds 2 checkpoints (one.index, two.index): name one of them"),
        (packed(cut_index, "b0/"), "/a.tgz: b0/model.ckpt-7.index: not a TensorFlow checkpoint index"),
        (packed(cut_data, ""), f"/a.tgz: model.ckpt-7{DATA}: 'efficientnetv2-b0/"),
        (packed(two_bundles, "b0/"), "/a.tgz: b0: holds 2 checkpoints"),
        (packed(two_bundles, ""), "/a.tgz: holds 2 checkpoints"),
        (cut_metadata, "/keras_metadata.pb: field 1: needs "),
        (edited_h5(link, zipfile.ZIP_STORED), "/a.keras: 'a' is a link to somewhere else"),
        (edited_h5(link, zipfile.ZIP_DEFLATED), "/a.keras: 'a' is a link to somewhere else"),
        (edited_h5(big_endian, zipfile.ZIP_STORED), "/a.keras: 'layers/dense/vars/0' is of type >f4"),
        (edited_h5(big_endian, zipfile.ZIP_DEFLATED), "/a.keras: 'layers/dense/vars/0' is of type >f4"),
        (cut_weights, "/model.safetensors: cut or no safetensors file"),
        (wrong_config, "/config.json: expected a JSON object, found list"),
        (wrong_setting, "/config.json: problem_type makes no sense: 'guess'"),
        (wrong_names, "/class_names.txt: line 2 is empty"),
        (no_plain_numbers, "/pytorch_model.bin: 'conv_stem.weight' is a torch.sparse_coo tensor"),
        (no_state_dict, "/a.pth: holds a list, expected a state_dict"),
    ],
)
def test_an_error_begins_with_the_file_at_fault(fill: Callable[[Path], str], message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    name = fill(source)
    with pytest.raises(EffNetExtError) as refusal:
        read(source / name)
    assert str(refusal.value).startswith(f"{source}{message}"), refusal.value
    assert str(refusal.value).count("timm_effnet_ext-") == 0  # where it was unpacked
    assert str(refusal.value).count(str(source)) == 1


def read(source: Path) -> None:
    with open_checkpoint(source) as checkpoint:
        for entry in checkpoint.variables.model.values():
            entry.read()
