"""Sources on a local Hub: what is asked for, what is taken, and what the result says of it."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import timm_effnet_ext  # noqa: F401  registers the models
from tests.convert._hub import BESIDE, REPO, SOURCE, Files, asked_for, converted, under
from tests.convert._sources import DATA, tiny_bundle
from tests.convert.readers.keras import _files as keras_files
from tests.hub_server import LocalHub
from tests.processes import imported_by
from tests.small_models import SMALL, create
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.convert.inspection import inspect_source
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError


def test_a_source_on_the_hub_is_the_source_on_disk_and_named_with_its_commit(
    local_hub: LocalHub, hub_folder: dict[str, bytes], tmp_path: Path
) -> None:
    commit = local_hub.add(REPO, {**hub_folder, **BESIDE}).refs["main"]
    report = converted(SOURCE, tmp_path / "out")
    (tmp_path / "net").mkdir()
    for name, content in hub_folder.items():
        (tmp_path / "net" / name).write_bytes(content)
    on_disk = converted(str(tmp_path / "net"), tmp_path / "other")
    assert asked_for(local_hub) == {"model.safetensors", "config.json"}
    assert report.weights_sha256 == on_disk.weights_sha256
    assert report.pretrained_cfg == on_disk.pretrained_cfg
    assert report.origin == f"{SOURCE}@{commit}"
    assert report.license is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"[`{SOURCE}@{commit}`]({local_hub.url}/{REPO}/tree/{commit})" in card
    assert "| Licence | not stated; the source's own card may have one |" in card
    assert "license:" not in card
    for text in (card, (tmp_path / "out" / "conversion.json").read_text()):
        assert "hub_cache" not in text
        assert "snapshots" not in text
    assert inspect_source(SOURCE).to_json()["path"] == report.origin


TORCHS = dict.fromkeys(("preprocessor_config.json", "args.yaml", "hparams.yaml", "trainer_state.json"), b"{}")
INDEX = b'{"weight_map": {"a": "w-00001-of-00002.bin", "b": "w-00002-of-00002.bin", "c": "../out.bin", "d": "no.bin"}}'
SHARDS = {"w.bin.index.json": INDEX, "w-00001-of-00002.bin": b"1", "w-00002-of-00002.bin": b"2"}
# What a repository holds -> what of it is asked for; "" stands for the repository, else for what is named in it.
CHOICES: dict[str, tuple[Files, str, set[str]]] = {
    "safetensors before .bin": (
        {**dict.fromkeys(("pytorch_model.bin", "best.pth", "tf_model.h5", "model.safetensors", "a.safetensors"), b"x"),
         **TORCHS},
        "", {"model.safetensors", *TORCHS},
    ),
    ".bin before others": ({"pytorch_model.bin": b"x", "net.keras": b"x"}, "", {"pytorch_model.bin"}),
    "shards that the index names": ({**SHARDS, "v-00001-of-00002.bin": b"x"}, "", {*SHARDS}),
    "a damaged index": ({**SHARDS, "w.bin.index.json": b"{"}, "", {"w.bin.index.json"}),
    "an index of nothing": ({**SHARDS, "w.bin.index.json": b'{"weight_map": [[]]}'}, "", {"w.bin.index.json"}),
    "only one below": ({"a/b/net.keras": b"x", "a/notes.txt": b"x"}, "", {"a/b/net.keras"}),
    "the folder before those below": (
        {"model.safetensors": b"x", "checkpoint-5/model.safetensors": b"x"}, "", {"model.safetensors"},
    ),
    "a folder that is named": (
        {"model.safetensors": b"x", "checkpoint-5/model.safetensors": b"x", "preprocessor_config.json": b"{}"},
        "/checkpoint-5", {"checkpoint-5/model.safetensors", "preprocessor_config.json"},
    ),
    "a file that is named": ({"a.keras": b"x", "b.keras": b"x", "model.safetensors": b"x"}, "/b.keras", {"b.keras"}),
    "a prefix that is named": (
        {f"net.ckpt-{n}.{end}": b"x" for n in (7, 8) for end in ("index", "data-00000-of-00001")},
        "/net.ckpt-7", {"net.ckpt-7.index", "net.ckpt-7.data-00000-of-00001"},
    ),
    "a preset of KerasHub": (
        {"config.json": b"{}", "model.weights.h5": b"x", "task.weights.h5": b"x", "task.json": b"{}"},
        "", {"config.json", "model.weights.h5", "task.weights.h5", "task.json"},
    ),
    "names with signs of patterns": ({"a[1]/*.pth": b"x", "a[1]/args.yaml": b"{}", "a1/args.yaml": b"{}"}, "",
                                     {"a[1]/*.pth", "a[1]/args.yaml"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_only_the_files_of_one_checkpoint_are_asked_for(local_hub: LocalHub, case: str) -> None:
    files, path, wanted = CHOICES[case]
    local_hub.add(REPO, {**BESIDE, **files})
    with pytest.raises(CheckpointFormatError, match=rf"^{SOURCE}@[0-9a-f]{{40}}.*: "):  # none of them is real
        inspect_source(SOURCE + path)
    assert asked_for(local_hub) == wanted


REAL: dict[str, tuple[str, Files]] = {
    "SavedModel": ("", under(DATA / "automl_v2_b0_tf2" / "saved_model")),
    "SavedModel in a folder": ("/exported", under(DATA / "automl_v2_b0_tf2" / "saved_model", "exported/")),
    "checkpoint": ("", under(DATA / "automl_v2_b0_tf2" / "object")),
    **{
        f"its {part}": (f"/run/ckpt-1{part}", under(DATA / "automl_v2_b0_tf2" / "object", "run/"))
        for part in ("", ".index", ".data-00000-of-00001")
    },
    "its state": ("/run/checkpoint", under(DATA / "automl_v2_b0_tf2" / "object", "run/")),
}


@pytest.mark.parametrize("case", REAL)
def test_tensorflows_files_find_each_other(local_hub: LocalHub, tmp_path: Path, case: str) -> None:
    path, files = REAL[case]
    local_hub.add(REPO, {**BESIDE, **files})
    report = converted(SOURCE + path, tmp_path / "out")
    assert report.arch == "efficientnetv2_b0"
    assert asked_for(local_hub) == {file for file in files if not file.endswith("checkpoint")}


def test_a_keras_file_is_compared_with_its_graph(local_hub: LocalHub, tmp_path: Path) -> None:
    local_hub.add(REPO, {"README.md": b"", "net.keras": keras_files.folder() / "keras3_sequential.keras"})
    report = convert(SOURCE, tmp_path / "out")
    assert report.verified
    assert [proof.kind for proof in report.proofs] == ["graph"]
    assert [*report.sources] == ["net.keras"]


def test_what_was_not_taken_is_told(local_hub: LocalHub, hub_folder: dict[str, bytes]) -> None:
    local_hub.add(REPO, {**hub_folder, "pytorch_model.bin": b"x", "best.pth": b"x"})
    notes = inspect_source(SOURCE).checkpoint.notes
    assert notes[0] == "model.safetensors was taken, and of the same repository not best.pth, pytorch_model.bin"


def test_another_revision(local_hub: LocalHub, hub_folder: dict[str, bytes], tmp_path: Path) -> None:
    repo = local_hub.add(REPO, hub_folder)
    first = repo.refs["main"]
    repo.commit("main", "second", {})
    assert converted(f"{SOURCE}@{first}", tmp_path / "out").origin == f"{SOURCE}@{first}"
    repo.commit("refs/pr/1", "proposed", repo.at(first).files)
    assert inspect_source(f"{SOURCE}@refs/pr/1").name == f"{SOURCE}@{repo.refs['refs/pr/1']}"
    with pytest.raises(CheckpointFormatError, match=r"no weights that are read\. It holds nothing"):
        inspect_source(SOURCE)


REFUSED: dict[str, tuple[Files, str, str]] = {
    "two of one form": (
        {"a.keras": b"x", "b.keras": b"x"}, "@main",
        f"{SOURCE}@main: holds 2 checkpoints. Name one of them: {SOURCE}@main/a.keras, {SOURCE}@main/b.keras",
    ),
    "two folders": (
        {f"checkpoint-{n}/model.safetensors": b"x" for n in (1, 2)}, "",
        f"{SOURCE}: holds 2 checkpoints. Name one of them: {SOURCE}/checkpoint-1/model.safetensors, "
        f"{SOURCE}/checkpoint-2/model.safetensors",
    ),
    "ONNX alone": ({"README.md": b"x", "onnx/model.onnx": b"x"}, "", "no weights that are read. onnx/model.onnx is ON"),
    "ONNX, named": ({"model.onnx": b"x", "a.keras": b"x"}, "/model.onnx", f"{SOURCE}/model.onnx: is ONNX. BatchNorm"),
    "nothing": ({}, "", "no weights that are read. It holds nothing"),
    "no weights": ({"README.md": b"x"}, "", "no weights that are read. It holds README.md"),
    "another name": ({"a.keras": b"x"}, "/b.keras", "/b.keras: nothing in the repository is called so. It holds a.ke"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_repository_that_does_not_say_what_is_meant(local_hub: LocalHub, case: str) -> None:
    files, path, message = REFUSED[case]
    local_hub.add(REPO, files)
    with pytest.raises(CheckpointFormatError, match=re.escape(message)):
        inspect_source(SOURCE + path)
    assert asked_for(local_hub) == set()


def test_one_line_takes_it_from_the_hub_to_the_hub(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = local_hub.add("bob/net", {"net.keras": keras_files.folder() / "keras3_sequential.keras"}).refs["main"]
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert main(["convert", "hf-hub:bob/net", "--push-to-hub", REPO, "--quiet", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out)["published"]["url"] == f"{local_hub.url}/{REPO}"
    assert json.loads(local_hub.read(REPO, "conversion.json"))["origin"] == f"hf-hub:bob/net@{commit}"


def test_the_source_itself_is_not_replaced_unasked(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local_hub.add(REPO, {"net.keras": keras_files.folder() / "keras3_sequential.keras"})
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    command = ["convert", SOURCE, "--push-to-hub", REPO, "--quiet"]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        f"error: {REPO}: is the source, which would be replaced. Name another repository, a branch of this one "
        "(--revision), or propose it there (--create-pr)\n"
    )
    assert local_hub.requests == []
    assert main([*command, "--revision", "timm"]) == 0
    assert [*local_hub.repos[REPO].at("main").files] == ["net.keras"]


def test_what_is_private_is_not_shown_to_everyone_unasked(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local_hub.add(REPO, {"net.keras": keras_files.folder() / "keras3_sequential.keras"}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    command = ["convert", SOURCE, "--push-to-hub", "alice/other", "--quiet"]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        f"error: {SOURCE}: is private. Publish what comes of it with --private, or convert it into a folder that "
        "everyone may see, and publish that\n"
    )
    assert (asked_for(local_hub), "alice/other" in local_hub.repos) == (set(), False)
    assert main([*command, "--private"]) == 0
    assert local_hub.repos["alice/other"].private


def test_paths_of_a_strangers_machine_are_not_looked_for_on_this_one(local_hub: LocalHub, tmp_path: Path) -> None:
    for label in ("mine", "secret", "yours"):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / label / "0.png")
    (tmp_path / "map.txt").write_text("mine\nsecret\nyours\n")
    model = create("hucorz_efficientnet_lite0", num_classes=3, **SMALL)
    for args in ({"data_dir": str(tmp_path)}, {"class_map": str(tmp_path / "map.txt")}):
        run = argparse.Namespace(model="hucorz_efficientnet_lite0", dataset="", train_split="train", **args)
        file = tmp_path / "best.pth.tar"
        torch.save({"state_dict": model.state_dict(), "arch": run.model, "args": run}, file)
        local_hub.add(REPO, {file.name: file})
        assert converted(str(file), tmp_path / "out").label_names == ("mine", "secret", "yours")
        assert converted(SOURCE, tmp_path / "out").label_names is None


def test_a_folder_that_is_in_the_way_is_told_before_anything_is_asked_for(local_hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match="which no conversion wrote"):
        convert(SOURCE, shutil.copytree(DATA / "tpu_b0", tmp_path / "out"))
    assert local_hub.requests == []


def test_a_source_on_disk_does_not_import_the_hubs_client(tmp_path: Path) -> None:
    command = ["convert", str(tiny_bundle(tmp_path)), "-o", "out", "--no-verify", "--quiet"]
    assert imported_by(command, "huggingface_hub", cwd=tmp_path) == set()
