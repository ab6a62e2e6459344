"""Filling an account: archives from a local server into a local Hub, with failures between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests._google_archive import archive, variables
from tests.archive_server import FileServer
from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from timm_effnet_ext.convert.google.archives import Archive, find
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.hub.account import Outcome, fill

B0, B0_AA, LITE0 = map(find, ("efficientnet_b0.in1k", "efficientnet_b0.aa_in1k", "efficientnet_lite0.in1k"))
REPO = "alice/hucorz_efficientnet_b0.in1k"


def filled(*chosen: Archive, dry_run: bool = False, **options: object) -> list[Outcome]:
    """Fill alice's account."""
    return list(fill("alice", chosen, Options(**options), lambda *what: None, dry_run=dry_run))


def test_each_checkpoint_goes_to_the_repository_that_the_registry_looks_for(
    local_hub: LocalHub, server: FileServer
) -> None:
    assert filled(B0) == [Outcome(B0.name, REPO, "published", f"{local_hub.url}/{REPO}")]
    record = json.loads(local_hub.read(REPO, "conversion.json"))
    assert (record["arch"], record["origin"], record["verified"]) == ("efficientnet_b0", B0.url, True)
    assert f"hf-hub:{REPO}" in local_hub.read(REPO, "README.md").decode()


def test_a_failure_does_not_stop_the_others(local_hub: LocalHub, server: FileServer) -> None:
    server.files[LITE0.path] = server.files[B0.path]  # of another model
    found = filled(B0_AA, LITE0, B0)
    assert [outcome.status for outcome in found] == ["failed", "failed", "published"]
    assert "efficientnet-b0.tar.gz: the server answered 404" in found[0].detail
    assert "is not efficientnet_lite0: it fits efficientnet_b0" in found[1].detail
    assert local_hub.repos.keys() == {REPO}


def test_what_is_there_is_skipped_without_a_download(local_hub: LocalHub, server: FileServer) -> None:
    filled(B0)
    server.requests.clear()
    assert [outcome.status for outcome in filled(B0)] == ["skipped"]
    assert server.requests == [f"HEAD /{B0.path}"]


def test_a_new_version_of_an_archive_is_published(local_hub: LocalHub, server: FileServer) -> None:
    filled(B0)
    server.files[B0.path] = archive(variables(seed=1))
    assert [outcome.status for outcome in filled(B0)] == ["published"]


@pytest.mark.parametrize("damage", ["incomplete", "not verified", "no record"])
def test_what_is_not_there_as_it_should_be_is_published_again(
    local_hub: LocalHub, server: FileServer, damage: str
) -> None:
    filled(B0)
    files = {name: local_hub.read(REPO, name) for name in local_hub.repos[REPO].at("main").files}
    if damage == "incomplete":
        del files["model.safetensors"]
    elif damage == "not verified":
        files["conversion.json"] = files["conversion.json"].replace(b'"verified": true', b'"verified": false')
    else:
        files["conversion.json"] = b"[]"
    local_hub.add(REPO, files)
    assert [outcome.status for outcome in filled(B0)] == ["published"]


def test_a_hub_that_fails_half_way_is_a_failure_and_the_next_run_completes_it(
    local_hub: LocalHub, server: FileServer
) -> None:
    local_hub.faults.append(Fault("POST .*/commit/", status=500, times=1000))
    (outcome,) = filled(B0)
    assert outcome.status == "failed"
    assert "the Hub answered 500" in outcome.detail
    local_hub.faults.clear()
    assert [outcome.status for outcome in filled(B0)] == ["published"]
    assert sum(request.startswith("GET") for request in server.requests) == 1  # the archive was kept


def test_archives_that_were_published_are_not_kept(local_hub: LocalHub, server: FileServer, tmp_path: Path) -> None:
    filled(B0)
    assert not list((tmp_path / "assets").rglob("*.tar.gz"))


def test_a_dry_run_publishes_nothing(local_hub: LocalHub, server: FileServer) -> None:
    (outcome,) = filled(B0, dry_run=True)
    assert (outcome.status, outcome.detail) == ("to do", f"{len(server.files[B0.path]):,} bytes to download")
    assert local_hub.repos == {}


def test_without_verification_nothing_is_published(local_hub: LocalHub, server: FileServer) -> None:
    (outcome,) = filled(B0, verify=False)
    assert outcome.status == "failed"
    assert "was not verified, so it is not published" in outcome.detail
    assert local_hub.repos == {}
