"""The local Hub answers the real client as the Hub would: what the other tests rest on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.faulty_server import Fault
from tests.hub_server import LocalHub

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100_000}


def _push(token: str) -> None:
    api = HfApi(token=token)
    api.create_repo("alice/net", exist_ok=True)
    additions = [CommitOperationAdd(path, raw) for path, raw in FILES.items()]
    api.create_commit("alice/net", additions, commit_message="x")


def test_a_commit_is_downloaded_again_byte_by_byte(local_hub: LocalHub) -> None:
    _push("hf_alice")
    for path, raw in FILES.items():
        assert Path(hf_hub_download("alice/net", path)).read_bytes() == raw


def test_the_tree_has_the_hash_of_lfs_content(local_hub: LocalHub) -> None:
    local_hub.add("alice/net", FILES)
    (entry,) = HfApi().get_paths_info("alice/net", "model.safetensors")
    assert entry.lfs.sha256 == hashlib.sha256(FILES["model.safetensors"]).hexdigest()


def test_a_pull_request_leaves_main_alone(local_hub: LocalHub) -> None:
    local_hub.add("alice/net", {})
    HfApi(token="hf_bob").create_commit(
        "alice/net", [CommitOperationAdd("a", b"a")], commit_message="x", create_pr=True
    )
    assert HfApi().list_repo_files("alice/net") == []
    assert HfApi().list_repo_files("alice/net", revision="refs/pr/1") == ["a"]


@pytest.mark.parametrize(
    ("token", "repo", "path", "revision", "error"),
    [
        (None, "alice/private", "a", None, RepositoryNotFoundError),
        ("hf_bob", "alice/private", "a", None, RepositoryNotFoundError),
        (None, "alice/absent", "a", None, RepositoryNotFoundError),
        (None, "alice/gated", "a", None, GatedRepoError),
        ("hf_wrong", "alice/net", "a", None, HfHubHTTPError),
        (None, "alice/net", "absent", None, EntryNotFoundError),
        (None, "alice/net", "a", "absent", RevisionNotFoundError),
    ],
)
def test_refusals_are_the_clients_own_errors(
    local_hub: LocalHub, token: str | None, repo: str, path: str, revision: str | None, error: type[Exception]
) -> None:
    local_hub.add("alice/net", {"a": b"a"})
    local_hub.add("alice/private", {"a": b"a"}, private=True)
    local_hub.add("alice/gated", {"a": b"a"}, gated=True)
    with pytest.raises(error):
        hf_hub_download(repo, path, revision=revision, token=token)


def test_another_may_not_write(local_hub: LocalHub) -> None:
    local_hub.add("alice/net", {})
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token="hf_bob").create_commit("alice/net", [CommitOperationAdd("a", b"a")], commit_message="x")


def test_a_cut_download_is_resumed_by_range(local_hub: LocalHub) -> None:
    local_hub.add("alice/net", FILES)
    local_hub.faults.append(Fault("GET .*safetensors", cut_after=100_000))
    path = hf_hub_download("alice/net", "model.safetensors")
    assert Path(path).read_bytes() == FILES["model.safetensors"]
    assert sum(request.startswith("GET") for request in local_hub.requests) == 2


def test_a_stopped_hub_refuses_connections_and_starts_again(local_hub: LocalHub) -> None:
    local_hub.add("alice/net", FILES)
    local_hub.stop()
    with pytest.raises(FileNotFoundError, match="cannot find the requested files"):
        hf_hub_download("alice/net", "config.json")
    local_hub.start()
    assert hf_hub_download("alice/net", "config.json")


def test_a_commit_that_is_cut_half_way_leaves_no_file(local_hub: LocalHub) -> None:
    local_hub.faults.append(Fault("POST .*/commit/", cut_after=10))
    with pytest.raises(Exception, match=r"disconnected|reset|closed"):
        _push("hf_alice")
    assert HfApi().list_repo_files("alice/net") == []
