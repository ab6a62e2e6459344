"""Weights in several files: all that the index names, from its folder alone, or the refusal that names the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.convert.readers.pytorch._files import copied, folder
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import CheckpointFormatError

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def in_bins(source: Path) -> None:
    """Make of a folder with safetensors the one that transformers wrote before it had them."""
    text = (source / INDEX).read_text()
    for name in SHARDS:
        new = name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        torch.save(load_file(source / name), source / new)
        text = text.replace(name, new)
        (source / name).unlink()
    (source / "pytorch_model.bin.index.json").write_text(text)
    (source / INDEX).unlink()


def test_shards_of_bin_are_the_same_weights(tmp_path: Path) -> None:
    source = copied("sharded", tmp_path)
    in_bins(source)
    reference = Options(reference=source / "reference.npz")
    report = convert(source, tmp_path / "out", reference)
    assert report.format == "PyTorch pickle in 3 shards"
    whole = convert(folder() / "sharded", tmp_path / "whole", reference)
    assert report.weights_sha256 == whole.weights_sha256


def test_an_index_of_any_name_is_read(tmp_path: Path) -> None:
    source = copied("sharded", tmp_path)
    index = (source / INDEX).rename(source / "weights.fp16.safetensors.index.json")
    assert convert(index, tmp_path / "out", Options(verify=False)).counts["used"] == 159


def _index(**changes: Any) -> Callable[[Path], Any]:
    def damage(source: Path) -> None:
        found = json.loads((source / INDEX).read_text())
        (source / INDEX).write_text(json.dumps({**found, **changes}))

    return damage


def _named(name: str) -> Callable[[Path], Any]:
    def damage(source: Path) -> None:
        found = json.loads((source / INDEX).read_text())
        found["weight_map"]["classifier.bias"] = name
        (source / INDEX).write_text(json.dumps(found))

    return damage


def _swap(source: Path) -> None:
    (source / SHARDS[0]).rename(source / "kept")
    (source / SHARDS[1]).rename(source / SHARDS[0])
    (source / "kept").rename(source / SHARDS[1])


def _cut(source: Path) -> None:
    file = source / SHARDS[1]
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "file", "says"),
    [
        (lambda s: (s / SHARDS[1]).unlink(), INDEX, f"1 of 3 shards are not there: {SHARDS[1]}. Copy or download"),
        (_cut, SHARDS[1], "cut or no safetensors file"),
        (lambda s: (s / SHARDS[1]).write_bytes(b""), SHARDS[1], ""),
        (_swap, INDEX, "176 tensors are not in the shards where the index says"),
        (_named(SHARDS[0]), INDEX, "1 tensors are not in the shards where the index says: classifier.bias"),
        (_named("../x"), INDEX, "its weight_map names ../x, expected files beside the index"),
        (_named("/etc/passwd"), INDEX, "its weight_map names /etc/passwd, expected files beside the index"),
        (_named("a\\b"), INDEX, "its weight_map names a\\b, expected files beside the index"),
        (_named(".."), INDEX, "its weight_map names .., expected files beside the index"),
        (_named(""), INDEX, "its weight_map names , expected files beside the index"),
        (_index(weight_map=[]), INDEX, "expected a weight_map from the names of tensors to files beside the index"),
        (_index(weight_map={"a": 3}), INDEX, "expected a weight_map from the names of tensors"),
        (lambda s: (s / INDEX).write_text("{"), INDEX, "not readable as JSON"),
        (lambda s: (s / INDEX).write_text("[]"), INDEX, "expected a JSON object, found list"),
    ],
)
def test_a_damaged_index_or_shard_is_named(damage: Callable[[Path], Any], file: str, says: str, tmp_path: Path) -> None:
    source = copied("sharded", tmp_path)
    damage(source)
    with pytest.raises(CheckpointFormatError, match=f"^{re.escape(f'{source / file}: {says}')}"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_shard_asks_for_its_index(tmp_path: Path) -> None:
    source = copied("sharded", tmp_path)
    with pytest.raises(CheckpointFormatError, match="is one of 3 shards of a checkpoint"):
        convert(source / SHARDS[0], tmp_path / "out")
    (source / INDEX).unlink()
    with pytest.raises(CheckpointFormatError, match=r"holds 3 shards of one checkpoint .* without their index"):
        convert(source, tmp_path / "out")
