"""Sources on a local Hub that cannot be had, or not at once: what is said, and what is tried again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
from huggingface_hub import hf_hub_download
from safetensors.numpy import load_file

import timm_effnet_ext  # noqa: F401  registers the models
from tests.convert._hub import BESIDE, REPO, SOURCE, asked_for, converted, flipped, under
from tests.convert._sources import tiny_bundle
from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.convert.inspection import inspect_source
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError


@pytest.mark.parametrize("access", [None, "private", "gated"])
@pytest.mark.parametrize("token", [None, "hf_bob"])
def test_a_repository_that_is_not_shown(
    local_hub: LocalHub,
    hub_folder: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    access: str | None,
    token: str | None,
) -> None:
    if access:
        local_hub.add(REPO, hub_folder, **{access: True})
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
    hub_folder: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    local_hub.add(REPO, hub_folder, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert main(["convert", SOURCE, "-o", str(tmp_path / "out"), "--no-verify", "--json"]) == 0
    printed = "".join(capfd.readouterr())
    assert f'"origin": "{SOURCE}@' in printed
    assert "hf_alice" not in printed + "".join(path.read_text() for path in (tmp_path / "out").glob("[!m]*"))


def test_a_wrong_token(local_hub: LocalHub, hub_folder: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    local_hub.add(REPO, hub_folder)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with pytest.raises(EffNetExtError, match=r"the Hub answered 401 \(.*Is the token right\? Log in again") as caught:
        inspect_source(SOURCE)
    assert "hf_nobody" not in str(caught.value)


def test_a_revision_that_is_not_there(local_hub: LocalHub, hub_folder: dict[str, bytes]) -> None:
    local_hub.add(REPO, hub_folder)
    with pytest.raises(EffNetExtError, match=rf"^{SOURCE}@old: the Hub shows no branch, tag or commit of that name"):
        inspect_source(f"{SOURCE}@old")


@pytest.mark.parametrize("is_offline", [False, True])
def test_what_was_converted_once_needs_no_hub(
    local_hub: LocalHub, hub_folder: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    local_hub.add(REPO, {**hub_folder, **BESIDE, "pytorch_model.bin": b"x"})
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
    local_hub: LocalHub, hub_folder: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.add(REPO, hub_folder)
    hf_hub_download(REPO, "config.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointFormatError) as caught:
        inspect_source(SOURCE)
    assert str(caught.value) == (
        f"{SOURCE}: no weights that are read. It holds config.json (the Hub was not asked: HF_HUB_OFFLINE is set; of "
        "the repository, what lies in the cache was looked at)"
    )


def test_what_is_in_the_cache_is_not_asked_for_again(local_hub: LocalHub, hub_folder: dict[str, bytes]) -> None:
    local_hub.add(REPO, hub_folder)
    inspect_source(SOURCE)
    local_hub.requests.clear()
    inspect_source(SOURCE)
    assert asked_for(local_hub) == set()


FAULTS = {
    "cut": (Fault("GET .*safetensors", cut_after=100, times=100), "the download failed: the Hub cannot be reached"),
    "other length": (Fault("GET .*safetensors", body=b"short"), r"the download failed: .* of size \d+ but has size 5"),
    "other bytes": (Fault("GET .*safetensors", damage=flipped), "model.safetensors arrived with another sha256 than"),
    "other config": (Fault("GET .*config", damage=flipped), "config.json arrived with another sha256 than the Hub a"),
    "limited": (Fault("GET /api", status=429, times=100), "the download failed: the Hub answered 429 for /api/models/"),
    "limited, files": (Fault("HEAD .*safet", status=429, times=100), "not in the cache and the Hub answered 429 for /"),
    "down": (Fault("GET /api/models", status=503, times=100), "not in the cache and the Hub answered 503 for /api/mod"),
    "no Hub": (Fault("GET /api/models", status=200, body=b"<html>", times=100), "the Hub's answer is not one of a Hub"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_download_that_fails_leaves_nothing_that_is_taken_for_whole(
    local_hub: LocalHub, hub_folder: dict[str, bytes], tmp_path: Path, case: str
) -> None:
    fault, message = FAULTS[case]
    local_hub.add(REPO, hub_folder)
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
        == safetensors.torch.load(hub_folder["model.safetensors"]).keys()
    )


def test_a_hub_that_stumbles_is_asked_again(local_hub: LocalHub, hub_folder: dict[str, bytes], tmp_path: Path) -> None:
    local_hub.add(REPO, hub_folder)
    local_hub.faults += [Fault("GET /api/models", status=503), Fault("GET .*safetensors", cut_after=1000)]
    local_hub.faults += [Fault("HEAD .*config", status=429)]
    assert not [note for note in converted(SOURCE, tmp_path / "out").notes if "cache" in note]


def test_a_commit_that_came_meanwhile_is_taken_though_the_hub_stumbles(
    local_hub: LocalHub, hub_folder: dict[str, bytes], tmp_path: Path
) -> None:
    local_hub.add(REPO, hub_folder)
    converted(SOURCE, tmp_path / "out")
    commit = local_hub.repos[REPO].commit("main", "second", local_hub.repos[REPO].at("main").files).sha
    local_hub.faults.append(Fault("GET /api/models", status=503, times=2))
    assert converted(SOURCE, tmp_path / "out").origin == f"{SOURCE}@{commit}"


def test_damage_is_told_with_the_name_on_the_hub(local_hub: LocalHub, tmp_path: Path) -> None:
    prefix = tiny_bundle(tmp_path / "net")
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    data.write_bytes(flipped(data.read_bytes()))
    commit = local_hub.add(REPO, under(tmp_path / "net")).refs["main"]
    with pytest.raises(CheckpointFormatError, match=rf"^{SOURCE}@{commit}/{prefix.name}.* damaged") as caught:
        converted(SOURCE, tmp_path / "out")
    assert "hub_cache" not in str(caught.value)
