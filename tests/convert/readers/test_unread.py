"""What is not read is named, with the way out."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest

from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.errors import CheckpointFormatError

FILES = [
    ("model.onnx", b"\x08\x07\x12\x07pytorch", "is ONNX. BatchNorm is folded"),
    ("model.tflite", b"\x1c\0\0\0TFL3", "is TFLite"),
    ("model", b"\x1c\0\0\0TFL3", "is TFLite"),
    ("model.json", b'{"modelTopology": {}, "weightsManifest": []}', "is TensorFlow.js"),
    ("frozen.pb", b"\n\x10\n\x05input", "is a graph of TensorFlow, frozen perhaps"),
    ("model.pdparams", b"\x80\x02}", "is PaddlePaddle's, a pickle that is never loaded"),
    ("model.xml", b'<?xml version="1.0"?><net name="x">', "is OpenVINO's"),
    ("model.mlmodel", b"\x08\x01", "is a model compiled for deployment"),
    ("model.npz", b"PK\3\4", "is a table of arrays"),
    ("model.pkl", pickle.dumps({"a": 1}), "is a Python pickle, which is never loaded"),
    ("model-00001-of-00003.safetensors", b"\x02\0\0\0\0\0\0\0{}", "is one of 3 shards of a checkpoint"),
    ("model.pth", b"", "is empty"),
    ("model.keras", b"", "is empty"),
    ("model.h5", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    ("model.h5", b"<!DOCTYPE html><html>", "is a web page"),
    ("model.xyz", b"hello", "not a checkpoint that is known. Expected"),
]


@pytest.mark.parametrize(("name", "raw", "message"), FILES, ids=[f"{name}-{text}" for name, _, text in FILES])
def test_a_file_is_named(name: str, raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    _check_refused(path, message)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("model/saved_model.pb", "is a zip around a SavedModel. Unpack it"),
        ("b0/archive_format", "is a program of torch.export"),
        ("checkpoint/model.ckpt-1.index", "is a zip around checkpoints"),
        ("best.pth", "is a zip around checkpoints"),
        ("photo.jpg", "not a checkpoint that is known"),
    ],
)
def test_a_zip_is_named_by_what_it_holds(member: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"x")
    _check_refused(path, message)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["export/saved_model.pb"], "a folder around 1 SavedModels. Give the one in it: export"),
        (["__0_0.distcp", ".metadata"], "a sharded checkpoint of torch.distributed"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "holds 2 shards of one checkpoint"),
        (["last.pth.tar", "summary.csv"], "a folder with weights in it. Name the file: last.pth.tar"),
        (["notes.txt"], "a folder without a checkpoint that is known"),
    ],
)
def test_a_folder_is_named_by_what_it_holds(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text("x")
    _check_refused(tmp_path / "f", message)


def test_a_folder_of_tensorflow_js_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"modelTopology": {}, "weightsManifest": []}))
    (tmp_path / "group1-shard1of1.bin").write_bytes(b"x")
    way_out = "Ask its author for the SavedModel or Keras file that it was converted from"
    _check_refused(
        tmp_path, f"holds TensorFlow.js. BatchNorm is folded into the convolutions there, and names are gone. {way_out}"
    )


def _check_refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointFormatError) as refusal, open_checkpoint(path):
        pass
    assert str(refusal.value).startswith(f"{path}: {message}"), refusal.value
