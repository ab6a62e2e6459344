"""What stands beside weights is found under whatever name it was saved, and what is none is left alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset

from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.convert.readers.pytorch.statements import (
    class_names_beside,
    class_names_of_data,
    settings_beside,
    statements_in,
)
from timm_effnet_ext.files.hub_format import CLASS_NAMES_FILE

NAME = "tf_efficientnet_b0"


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ({"arch": NAME}, "arch"),
        ({"model_name": NAME}, "model_name"),
        ({"hyper_parameters": {"backbone": NAME}}, "hyper_parameters.backbone"),
        ({"hparams": {"net": {"encoderName": NAME}}}, "hparams.net.encoderName"),
        ({"cfg": {"MODEL": {"NAME": NAME}}}, "cfg.MODEL.NAME"),
        ({"args": argparse.Namespace(model=NAME)}, "args.model"),
        ({"config": {"timm_variant": "hf-hub:timm/x"}}, "config.timm_variant"),
    ],
)
def test_names_of_models_are_found(entries: dict[str, Any], where: str) -> None:
    (found,) = [one for one in statements_in(entries) if one.name]
    assert (found.where, found.is_certain) == (where, where == "arch")


@pytest.mark.parametrize(
    "entries",
    [
        {"experiment_name": NAME},
        {"hyper_parameters": {"model_path": NAME, "checkpoint": NAME, "model_dir": NAME}},
        {"backbone": f"/runs/{NAME}"},
        {"model": {"run_name": NAME}},
        {"model": "x" * 300},
        {"state_dict": {"model": torch.ones(1)}},
    ],
)
def test_names_of_something_else_are_left_alone(entries: dict[str, Any]) -> None:
    assert [one for one in statements_in(entries) if one.name] == []


@pytest.mark.parametrize(
    "entries",
    [
        {"classes": ["a", "b"]},
        {"class_names": ("a", "b")},
        {"hyper_parameters": {"label_names": np.array(["a", "b"])}},
        {"class_to_idx": {"b": 1, "a": 0}},
        {"idx_to_class": {0: "a", 1: "b"}},
        {"id2label": {"0": "a", "1": "b"}},
        {"meta": {"CLASSES": ["a", "b"]}},
        {"classToIdx": {"b": np.int64(1), "a": np.int64(0)}},
    ],
)
def test_class_names_are_found(entries: dict[str, Any]) -> None:
    (found,) = statements_in(entries)
    assert dict(found.label_names) == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    "entries",
    [{"labels": ["a", "a"]}, {"labels": [1, 2]}, {"classes": 5}, {"classes": []}, {"classes": ["", "a"]},
     {"class_to_idx": {"a": -1}}, {"id2label": {"x": "a"}}, {"words": ["a", "b"]}],
)  # fmt: skip
def test_lists_of_something_else_are_left_alone(entries: dict[str, Any]) -> None:
    assert list(statements_in(entries)) == []


@pytest.mark.parametrize("place", ["args.yaml", "hparams.yaml", "../hparams.yaml", "config.yaml", "config.json"])
def test_files_of_settings_beside_a_checkpoint_are_read(place: str, tmp_path: Path) -> None:
    file = tmp_path / "version_0" / "checkpoints" / "best.ckpt"
    file.parent.mkdir(parents=True)
    settings = {"backbone": NAME, "classes": ["a", "b"]}
    (file.parent / place).write_text(json.dumps(settings))
    (found,) = settings_beside(file)
    assert found == (Path(place).name, settings)
    name, classes = statements_in(found[1], found[0])
    assert (name.where, name.name, name.is_certain) == (f"{Path(place).name}: backbone", NAME, False)
    assert dict(classes.label_names) == {0: "a", 1: "b"}


@pytest.mark.parametrize("text", ["", "[1, 2]", "!!python/object:os.system x", "{", "\x00", "a: &a [*a]", "5"])
def test_files_that_hold_no_settings_say_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "hparams.yaml").write_text(text)
    assert [one for _, settings in settings_beside(tmp_path / "x.ckpt") for one in statements_in(settings)] == []


def test_a_runs_own_list_is_read(tmp_path: Path) -> None:
    assert list(class_names_beside(tmp_path / "last.pth.tar")) == []
    (tmp_path / CLASS_NAMES_FILE).write_text("1\n2\n10\n")
    (found,) = class_names_beside(tmp_path / "last.pth.tar")
    assert dict(found.label_names) == {0: "1", 1: "2", 2: "10"}


def _folders(root: Path, *names: str) -> None:
    for name in names:
        (root / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / "train" / name / "1.png")


def test_folders_are_numbered_as_timm_does(tmp_path: Path) -> None:
    names = ("1", "2", "10", "Zebra", "apple", "class 9", "class 10", "čeština")
    _folders(tmp_path, *names)
    (tmp_path / "train" / "empty").mkdir()
    found = class_names_of_data({"data_dir": str(tmp_path), "train_split": "train", "dataset": ""})
    assert isinstance(found, Statement)
    order = create_dataset("", tmp_path, split="train").reader.class_to_idx
    assert {name: i for i, name in found.label_names.items()} == order
    assert set(found.label_names.values()) == set(names)


def test_a_class_map_is_read_as_timm_does(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("zebra\napple\n")
    found = class_names_of_data({"data_dir": str(tmp_path), "class_map": "map.txt"})
    assert isinstance(found, Statement)
    assert dict(found.label_names) == {0: "zebra", 1: "apple"}


@pytest.mark.parametrize(
    ("args", "note"),
    [
        ({"data_dir": "gone"}, "the data folder 'gone' of train.py's arguments is not there"),
        ({"data_dir": "{tmp}/bare"}, "has none"),
        ({"data_dir": "{tmp}/twins"}, "of folders in '{tmp}/twins' that differ in case alone timm's order changes"),
        ({"data_dir": "x", "class_map": "gone.txt"}, "the class map 'gone.txt' of train.py's arguments is not there"),
        ({"class_map": "{tmp}/map.pkl"}, "is a pickle, which is never loaded"),
        ({"class_map": "{tmp}/map.txt"}, "line 2 is empty"),
    ],
)
def test_names_that_are_not_to_be_had_are_said_to_be_unknown(args: dict[str, str], note: str, tmp_path: Path) -> None:
    _folders(tmp_path / "twins", "cat", "Cat")
    (tmp_path / "bare").mkdir()
    (tmp_path / "map.pkl").write_bytes(b"\x80\x04}.")
    (tmp_path / "map.txt").write_text("a\n\nb")
    args = {name: value.format(tmp=tmp_path) for name, value in args.items()}
    found = class_names_of_data(args)
    assert isinstance(found, str)
    assert found.startswith("class names unknown: ")
    assert note.format(tmp=tmp_path) in found


@pytest.mark.parametrize("args", [{}, {"data_dir": "x", "dataset": "tfds/cifar10"}, {"dataset": "hfds/x"}])
def test_other_data_is_not_asked(args: dict[str, str]) -> None:
    assert class_names_of_data(args) is None
