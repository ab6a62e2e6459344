"""The folder that Keras saves with `zipped=False`, as it does to the Hub, is read as the .keras file is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.convert.readers.keras import _files as keras_files
from tests.hub_server import LocalHub
from timm_effnet_ext.convert.inspection import inspect_source
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.errors import CheckpointFormatError

MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}


@pytest.fixture
def packed() -> Path:
    return keras_files.folder() / "keras3_sequential.keras"


@pytest.fixture
def unpacked(packed: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "net")
    return tmp_path / "net"


def test_it_is_the_same_model(packed: Path, unpacked: Path, tmp_path: Path) -> None:
    found, wanted = convert(unpacked, tmp_path / "found"), convert(packed, tmp_path / "wanted")
    assert (found.weights_sha256, found.pretrained_cfg) == (wanted.weights_sha256, wanted.pretrained_cfg)
    assert [proof.kind for proof in found.proofs] == ["graph"]
    assert found.format == "Keras 3.15.0 .keras, unpacked"
    assert found.sources.keys() == MEMBERS


def test_it_is_taken_from_the_hub(local_hub: LocalHub, unpacked: Path) -> None:
    files = {name: unpacked / name for name in MEMBERS}
    local_hub.add("alice/net", {**files, "README.md": b"", "assets/summary_plot.png": b""})
    assert inspect_source("hf-hub:alice/net").checkpoint.format == "Keras 3.15.0 .keras, unpacked"
    assert not [request for request in local_hub.requests if "README" in request or "assets" in request]


@pytest.mark.parametrize("metadata", ["", "{", "[]", "{}", '{"keras_version": 3}'])
def test_metadata_that_says_no_version_is_for_people_alone(unpacked: Path, metadata: str) -> None:
    (unpacked / "metadata.json").write_text(metadata)
    assert inspect_source(unpacked).checkpoint.format == "Keras 3 .keras, unpacked"


@pytest.mark.parametrize("metadata", ["{", "[]"])
def test_so_it_is_in_a_file(unpacked: Path, tmp_path: Path, metadata: str) -> None:
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        for name in MEMBERS - {"metadata.json"}:
            archive.write(unpacked / name, name)
        archive.writestr("metadata.json", metadata)
    assert inspect_source(tmp_path / "net.keras").checkpoint.format == "Keras 3 .keras"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff{}", "broken .keras file: 'utf-8'"), (b"{", "net: the model config is no usable JSON")],
)
def test_a_damaged_config(unpacked: Path, content: bytes, message: str) -> None:
    (unpacked / "config.json").write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=message):
        inspect_source(unpacked)


def test_a_config_of_an_absurd_size(unpacked: Path) -> None:
    with (unpacked / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(
        CheckpointFormatError, match=r"config\.json has 1073741824 bytes, at most 67108864 are expected"
    ):
        inspect_source(unpacked)


def test_a_preset_of_keras_hub_is_none(unpacked: Path) -> None:
    (unpacked / "metadata.json").write_text(json.dumps({"keras_version": "3.15.1", "keras_hub_version": "0.32.0"}))
    with pytest.raises(CheckpointFormatError, match=r"net: a preset of KerasHub\. Load it with"):
        inspect_source(unpacked)
