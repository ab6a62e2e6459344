"""Folders that transformers wrote: the network, its labels and how its processor prepares images, or the refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config

from tests.convert.readers.pytorch._files import copied, folder
from timm_effnet_ext.convert.inspection import inspect_source
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.convert.records import Options, Report
from timm_effnet_ext.errors import CheckpointFormatError, VerificationError

PLACEHOLDERS = "config.json calls the classes LABEL_0, LABEL_1, …: placeholders of transformers, no names"
PADS = "its own code pads for images whose sides are"


def converted(source: Path, out: Path) -> Report:
    """Convert a folder and compare with what transformers computed."""
    return convert(source, out, Options(reference=folder() / source.name / "reference.npz"))


def edit(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None takes one away."""
    found = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in {**found, **changes}.items() if v is not None}))


def preprocessing(source: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what a folder would be converted to, and the notes of its reader."""
    found = inspect_source(source)
    return found.config.values["pretrained_cfg"], list(found.checkpoint.notes)


def test_a_folder_computes_what_transformers_does(tmp_path: Path) -> None:
    report = converted(folder() / "plain", tmp_path / "out")
    assert report.dialect == "transformers"
    assert report.label_names == ("rose", "tulip", "daisy")
    assert report.origins["label_names"] == "config.json"
    cfg, origins = report.pretrained_cfg, report.origins
    assert (cfg["mean"], cfg["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # divided by its root twice
    assert (cfg["input_size"], cfg["interpolation"], cfg["crop_mode"]) == ((3, 64, 64), "nearest", "squash")
    assert {
        origins[f"pretrained_cfg.{name}"] for name in ("mean", "std", "input_size", "crop_pct", "interpolation")
    } == {"preprocessor_config.json"}


def test_images_are_prepared_as_its_processor_does() -> None:
    with np.load(folder() / "plain" / "prepared.npz") as saved:
        image, expected = saved["image"], saved["output"]
    cfg, _ = preprocessing(folder() / "plain")
    found = create_transform(**resolve_data_config(cfg))(Image.fromarray(image)).numpy()
    assert np.abs(found - expected).max() < 1e-6 * np.ptp(expected)  # float32 rounds to 6e-8


def test_shards_are_read_by_their_index_with_their_epsilon_and_padding(tmp_path: Path) -> None:
    report = converted(folder() / "sharded", tmp_path / "out")
    assert report.model_args["bn_eps"] == 0.01
    assert report.problem_type == "multi_label_classification"
    assert report.label_names is None
    assert PLACEHOLDERS in report.notes
    assert [note for note in report.notes if note.startswith(f"{PADS} 16 more than a multiple of 32 (144, ")]
    assert report.format == "safetensors in 3 shards"
    assert len(report.sources) == 4
    index = folder() / "sharded" / "model.safetensors.index.json"
    again = convert(index, tmp_path / "again", Options(verify=False))
    assert again.weights_sha256 == report.weights_sha256


def test_a_timm_model_in_transformers_is_read(tmp_path: Path) -> None:
    report = converted(folder() / "wrapper", tmp_path / "out")
    assert report.reason.startswith("all 159 names of dialect 'timm' under 'timm_model.'")
    assert report.label_names == ("cup", "fork")
    assert report.pretrained_cfg["std"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["model.safetensors", "renamed.safetensors"])
def test_a_lone_file_is_explained_by_the_config_beside_it(name: str, tmp_path: Path) -> None:
    source = copied("plain", tmp_path)
    file = (source / "model.safetensors").rename(source / name)
    report = convert(file, tmp_path / "out", Options(reference=source / "reference.npz"))
    assert report.label_names == ("rose", "tulip", "daisy")
    assert report.pretrained_cfg["input_size"] == (3, 64, 64)


def test_a_checkpoint_of_trainer_says_its_step_and_has_its_processor_above(tmp_path: Path) -> None:
    run = tmp_path / "run"
    source = Path(shutil.copytree(folder() / "plain", run / "checkpoint-500"))
    (source / "preprocessor_config.json").rename(run / "preprocessor_config.json")
    (source / "trainer_state.json").write_text(json.dumps({"global_step": 500, "epoch": 2.0}))
    torch.save({"state": {}, "param_groups": []}, source / "optimizer.pt")
    (source / "training_args.bin").write_bytes(b"a pickle that is never loaded")
    report = convert(source, tmp_path / "out", Options(verify=False))
    assert (report.step, report.pretrained_cfg["interpolation"]) == (500, "nearest")
    with pytest.raises(
        CheckpointFormatError, match=r"holds 1 checkpoints of transformers' Trainer\. .*checkpoint-500$"
    ):
        convert(run, tmp_path / "whole")


def test_a_config_of_transformers_says_nothing_of_weights_with_other_names(tmp_path: Path) -> None:
    source = copied("wrapper", tmp_path)
    shutil.copy(folder() / "sharded" / "config.json", source)
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.statements[0].model_args["bn_eps"] == 0.01
    report = convert(source, tmp_path / "out", Options(verify=False))
    assert "bn_eps" not in report.model_args


@pytest.mark.parametrize(
    ("changes", "expected", "notes"),
    [
        ({"include_top": False}, {"std": (0.4785394, 0.4732864, 0.4743416)}, 0),
        ({"include_top": False, "do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}, 0),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (0.4785394, 0.4732864, 0.4743416)}, 0),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "image_mean": 0.0, "image_std": 1.0},
         {"mean": (0.5,) * 3, "std": (0.5,) * 3}, 0),
        ({"do_rescale": False, "image_mean": 127.5, "image_std": 127.5, "include_top": False},
         {"mean": (0.5,) * 3, "std": (0.5,) * 3}, 0),
        ({"resample": 2, "size": {"height": 64, "width": 96}},
         {"interpolation": "bilinear", "input_size": (3, 64, 96)}, 0),
        ({"do_center_crop": True, "size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 64}},
         {"input_size": (3, 64, 64), "crop_pct": 64 / 72, "crop_mode": "squash"}, 0),
        ({"do_center_crop": True, "size": {"shortest_edge": 72}, "crop_size": 64},
         {"input_size": (3, 64, 64), "crop_pct": 64 / 72, "crop_mode": "center"}, 0),
        ({"do_center_crop": True, "size": {"height": 72, "width": 100}, "crop_size": 64},
         {"input_size": (3, 64, 64)}, 1),
        ({"size": {"shortest_edge": 64}}, {"input_size": (3, 64, 64), "crop_mode": "center"}, 1),
        ({"size": {"longest_edge": 64}}, {"input_size": (3, 64, 64)}, 1),
        ({"do_resize": False}, {"input_size": (3, 64, 64)}, 1),
        ({"image_processor_type": "ViTImageProcessor"}, {"interpolation": "bicubic"}, 1),
        ({"crop_size": {"height": 289, "width": 289}}, {"input_size": (3, 64, 64), "crop_pct": 1.0}, 0),
    ],
)  # fmt: skip
def test_what_a_processor_says_is_what_is_written(
    changes: dict[str, Any], expected: dict[str, Any], notes: int, tmp_path: Path
) -> None:
    source = copied("plain", tmp_path)
    edit(source / "preprocessor_config.json", **changes)
    cfg, said = preprocessing(source)
    assert {name: cfg[name] for name in expected} == expected
    assert len(said) == notes


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"hidden_act": "gelu"}, "hidden_act is 'gelu', which none of the 29 architectures has"),
        (
            "config.json",
            {"strides": [1, 2, 1, 2, 1, 2, 1]},
            r"strides is \[1, 2, 1, 2, 1, 2, 1\], which none of the 29",
        ),
        ("config.json", {"squeeze_expansion_ratio": 0.5}, "squeeze_expansion_ratio is 0.5, which none of the 29"),
        ("config.json", {"pooling_type": "cls"}, "pooling_type is 'cls', which none of the 29"),
        ("config.json", {"batch_norm_eps": "small"}, "batch_norm_eps makes no sense: 'small'"),
        ("config.json", {"depthwise_padding": {"a": 1}}, "depthwise_padding makes no sense"),
        ("config.json", {"image_size": -1}, "image_size makes no sense: -1"),
        ("config.json", {"id2label": {"a": "b"}}, "id2label is neither a list of names nor an object"),
        ("config.json", {"problem_type": "guessing"}, "problem_type makes no sense: 'guessing'"),
        ("preprocessor_config.json", {"size": "large"}, "size makes no sense: 'large'"),
        ("preprocessor_config.json", {"image_std": [0.1, 0.0, 0.1]}, "image_std makes no sense"),
        ("preprocessor_config.json", {"image_std": [1e200] * 3}, r"std makes no sense: \[inf, inf, inf\]"),
        ("preprocessor_config.json", {"image_std": [1e-200] * 3}, r"std makes no sense: \[0\.0, 0\.0, 0\.0\]"),
        ("preprocessor_config.json", {"image_mean": 10**400}, "image_mean makes no sense: 1000"),
        ("preprocessor_config.json", {"resample": 9}, "resample makes no sense: 9"),
        ("preprocessor_config.json", {"include_top": "yes"}, "include_top makes no sense: 'yes'"),
    ],
)
def test_a_setting_that_cannot_be_kept_is_named(file: str, changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    source = copied("plain", tmp_path)
    edit(source / file, **changes)
    with pytest.raises(CheckpointFormatError, match=f"^{source / file}: {says}"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_a_damaged_config_is_named(file: str, tmp_path: Path) -> None:
    source = copied("plain", tmp_path)
    (source / file).write_text("[]")
    with pytest.raises(CheckpointFormatError, match=f"^{source / file}: expected a JSON object, found list"):
        convert(source, tmp_path / "out")


def test_where_it_pads_otherwise_another_size_is_written_and_said(tmp_path: Path) -> None:
    source = copied("sharded", tmp_path)
    edit(source / "config.json", depthwise_padding=[])
    found = inspect_source(source)
    assert found.config.values["pretrained_cfg"]["input_size"] in ((3, 64, 64), (3, 96, 96))
    origin = "assumed in place of 80x80, for which its own code pads otherwise than SAME does"
    assert found.config.origins["pretrained_cfg.input_size"] == origin
    # the reference is of the other padding
    edit(source / "config.json", depthwise_padding=[5])
    assert converted(source, tmp_path / "right").verified
    with np.load(source / "reference.npz") as saved:
        np.savez(tmp_path / "odd.npz", input=saved["input"][:, :64, :64], output=saved["output"])
    with pytest.raises(VerificationError):
        convert(source, tmp_path / "wrong", Options(reference=tmp_path / "odd.npz"))


def test_half_precision_and_bin_are_read(tmp_path: Path) -> None:
    source = copied("plain", tmp_path)
    file = source / "model.safetensors"
    state = load_file(file)
    file.unlink()
    torch.save(state, source / "pytorch_model.bin")
    assert converted(source, tmp_path / "out").format == "PyTorch pickle"
