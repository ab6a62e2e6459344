"""Sources on a local Hub: what is asked for, what the result says of them, and what is said of those not to be had."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import hf_hub_download
from safetensors.numpy import load_file

import timm_effnet_ext  # noqa: F401  registers the models
from tests.convert._sources import DATA, TINY, tiny_bundle
from tests.convert.readers.keras import _files as keras_files
from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from tests.processes import imported_by
from tests.weights.test_hub_loading import hub_files
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.convert.inspection import inspect_source
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options, Report
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError

REPO, SOURCE = "alice/net", "hf-hub:alice/net"
Files = Mapping[str, bytes | Path]
# What lies beside weights, and nobody reads.
BESIDE: Files = dict.fromkeys(
    (
        ".gitattributes", "README.md", "photo.png", "optimizer.pt", "scheduler.pt", "rng_state.pth",
        "training_args.bin", "model.onnx", "onnx/model.onnx", "model.tflite", "flax_model.msgpack",
        "runs/events.out.tfevents.1", "openvino_model.bin",
    ),
    b"nobody reads this",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> dict[str, bytes]:
    """A tiny model in timm's Hub format."""
    torch.manual_seed(0)
    model = timm.create_model("hucorz_efficientnetv2_b0", **TINY)
    return hub_files(model, architecture="hucorz_efficientnetv2_b0", model_args={"width_mult": 0.04, "depth_mult": 0.2})


def converted(source: str, out: Path, **options: Any) -> Report:
    return convert(source, out, Options(verify=False, overwrite=True, **options))


def asked_for(hub: LocalHub) -> set[str]:
    """Return the files that a Hub was asked for."""
    return {request.split("/resolve/")[1].partition("/")[2] for request in hub.requests if "/resolve/" in request}


def under(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Return the files of a folder by their paths in it, below `prefix`."""
    return {prefix + path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_a_source_on_the_hub_is_the_source_on_disk_and_named_with_its_commit(
    local_hub: LocalHub, folder: dict[str, bytes], tmp_path: Path
) -> None:
    commit = local_hub.add(REPO, {**folder, **BESIDE}).refs["main"]
    report = converted(SOURCE, tmp_path / "out")
    (tmp_path / "net").mkdir()
    for name, content in folder.items():
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


def test_what_was_not_taken_is_told(local_hub: LocalHub, folder: dict[str, bytes]) -> None:
    local_hub.add(REPO, {**folder, "pytorch_model.bin": b"x", "best.pth": b"x"})
    notes = inspect_source(SOURCE).checkpoint.notes
    assert notes[0] == "model.safetensors was taken, and of the same repository not best.pth, pytorch_model.bin"


def test_another_revision(local_hub: LocalHub, folder: dict[str, bytes], tmp_path: Path) -> None:
    repo = local_hub.add(REPO, folder)
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


@pytest.mark.parametrize("access", [None, "private", "gated"])
@pytest.mark.parametrize("token", [None, "hf_bob"])
def test_a_repository_that_is_not_shown(
    local_hub: LocalHub,
    folder: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    access: str | None,
    token: str | None,
) -> None:
    if access:
        local_hub.add(REPO, folder, **{access: True})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = (
        r": the Hub shows no repository 'alice/net': it does not exist, or it is private or gated and needs a token "
        r"that opens it\. Check the name, or log in: hf auth login\.$"
    )
    with pytest.raises(EffNetExtError, match=message):
        inspect_source(SOURCE)


def test_a_token_opens_a_private_repository_and_is_told_to_nobody(
    local_hub: LocalHub,
    folder: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    local_hub.add(REPO, folder, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert main(["convert", SOURCE, "-o", str(tmp_path / "out"), "--no-verify", "--json"]) == 0
    printed = "".join(capfd.readouterr())
    assert f'"origin": "{SOURCE}@' in printed
    assert "hf_alice" not in printed + "".join(path.read_text() for path in (tmp_path / "out").glob("[!m]*"))


def test_a_wrong_token(local_hub: LocalHub, folder: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    local_hub.add(REPO, folder)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with pytest.raises(EffNetExtError, match=r"the Hub answered 401 \(.*Is the token right\? Log in again") as caught:
        inspect_source(SOURCE)
    assert "hf_nobody" not in str(caught.value)


def test_a_revision_that_is_not_there(local_hub: LocalHub, folder: dict[str, bytes]) -> None:
    local_hub.add(REPO, folder)
    with pytest.raises(EffNetExtError, match=rf"^{SOURCE}@old: the Hub shows no branch, tag or commit of that name"):
        inspect_source(f"{SOURCE}@old")


@pytest.mark.parametrize("is_offline", [False, True])
def test_what_was_converted_once_needs_no_hub(
    local_hub: LocalHub, folder: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    local_hub.add(REPO, {**folder, **BESIDE, "pytorch_model.bin": b"x"})
    online = converted(SOURCE, tmp_path / "out")
    if is_offline:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        local_hub.requests.clear()
    else:
        local_hub.stop()
    again = converted(SOURCE, tmp_path / "again")
    assert (again.origin, again.weights_sha256) == (online.origin, online.weights_sha256)
    said = r"the Hub was not asked: HF_HUB_OFFLINE is set" if is_offline else r"the Hub cannot be reached \(.*\)"
    assert re.fullmatch(rf"{said}; of the repository, what lies in the cache was looked at", again.notes[0])
    assert not is_offline or local_hub.requests == []


@pytest.mark.parametrize("is_offline", [False, True])
def test_no_hub_and_nothing_in_the_cache(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    local_hub.stop()
    said = "the Hub was not asked: HF_HUB_OFFLINE is set" if is_offline else r"the Hub cannot be reached \(.*\)"
    with pytest.raises(EffNetExtError, match=rf"^{SOURCE}: its weights are not in the cache and {said}. Connect once"):
        inspect_source(SOURCE)


def test_a_cache_without_the_weights_is_not_taken_for_the_repository(
    local_hub: LocalHub, folder: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.add(REPO, folder)
    hf_hub_download(REPO, "config.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointFormatError) as caught:
        inspect_source(SOURCE)
    assert str(caught.value) == (
        f"{SOURCE}: no weights that are read. It holds config.json (the Hub was not asked: HF_HUB_OFFLINE is set; of "
        "the repository, what lies in the cache was looked at)"
    )


def test_what_is_in_the_cache_is_not_asked_for_again(local_hub: LocalHub, folder: dict[str, bytes]) -> None:
    local_hub.add(REPO, folder)
    inspect_source(SOURCE)
    local_hub.requests.clear()
    inspect_source(SOURCE)
    assert asked_for(local_hub) == set()


def _flipped(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


FAULTS = {
    "cut": (Fault("GET .*safetensors", cut_after=100, times=100), "the download failed: the Hub cannot be reached"),
    "other length": (Fault("GET .*safetensors", body=b"short"), r"the download failed: .* of size \d+ but has size 5"),
    "other bytes": (Fault("GET .*safetensors", damage=_flipped), "model.safetensors arrived with another sha256 than"),
    "other config": (Fault("GET .*config", damage=_flipped), "config.json arrived with another sha256 than the Hub a"),
    "limited": (Fault("GET /api", status=429, times=100), "the download failed: the Hub answered 429 for /api/models/"),
    "limited, files": (Fault("HEAD .*safet", status=429, times=100), "not in the cache and the Hub answered 429 for /"),
    "down": (Fault("GET /api/models", status=503, times=100), "not in the cache and the Hub answered 503 for /api/mod"),
    "no Hub": (Fault("GET /api/models", status=200, body=b"<html>", times=100), "the Hub's answer is not one of a Hub"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_download_that_fails_leaves_nothing_that_is_taken_for_whole(
    local_hub: LocalHub, folder: dict[str, bytes], tmp_path: Path, case: str
) -> None:
    fault, message = FAULTS[case]
    local_hub.add(REPO, folder)
    local_hub.faults.append(fault)
    with pytest.raises(EffNetExtError, match=f"^{SOURCE}.*{message}") as caught:
        converted(SOURCE, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert "hub_cache" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    local_hub.faults.clear()
    converted(SOURCE, tmp_path / "out")
    assert (
        load_file(tmp_path / "out" / "model.safetensors").keys()
        == safetensors.torch.load(folder["model.safetensors"]).keys()
    )


def test_a_hub_that_stumbles_is_asked_again(local_hub: LocalHub, folder: dict[str, bytes], tmp_path: Path) -> None:
    local_hub.add(REPO, folder)
    local_hub.faults += [Fault("GET /api/models", status=503), Fault("GET .*safetensors", cut_after=1000)]
    local_hub.faults += [Fault("HEAD .*config", status=429)]
    assert not [note for note in converted(SOURCE, tmp_path / "out").notes if "cache" in note]


def test_a_commit_that_came_meanwhile_is_taken_though_the_hub_stumbles(
    local_hub: LocalHub, folder: dict[str, bytes], tmp_path: Path
) -> None:
    local_hub.add(REPO, folder)
    converted(SOURCE, tmp_path / "out")
    commit = local_hub.repos[REPO].commit("main", "second", local_hub.repos[REPO].at("main").files).sha
    local_hub.faults.append(Fault("GET /api/models", status=503, times=2))
    assert converted(SOURCE, tmp_path / "out").origin == f"{SOURCE}@{commit}"


def test_damage_is_told_with_the_name_on_the_hub(local_hub: LocalHub, tmp_path: Path) -> None:
    prefix = tiny_bundle(tmp_path / "net")
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    data.write_bytes(_flipped(data.read_bytes()))
    commit = local_hub.add(REPO, under(tmp_path / "net")).refs["main"]
    with pytest.raises(CheckpointFormatError, match=rf"^{SOURCE}@{commit}/{prefix.name}.* damaged") as caught:
        converted(SOURCE, tmp_path / "out")
    assert "hub_cache" not in str(caught.value)


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


def test_a_folder_that_is_in_the_way_is_told_before_anything_is_asked_for(local_hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match="which no conversion wrote"):
        convert(SOURCE, shutil.copytree(DATA / "tpu_b0", tmp_path / "out"))
    assert local_hub.requests == []


def test_a_source_on_disk_does_not_import_the_hubs_client(tmp_path: Path) -> None:
    command = ["convert", str(tiny_bundle(tmp_path)), "-o", "out", "--no-verify", "--quiet"]
    assert imported_by(command, "huggingface_hub", cwd=tmp_path) == set()
