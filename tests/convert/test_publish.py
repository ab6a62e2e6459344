"""Publishing against a local Hub: what lies there afterwards, and what is said when it does not get there."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import HfApi

from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from timm_effnet_ext.convert.pipeline import FILES
from timm_effnet_ext.convert.publish import Target, files_to_publish, publish, published_record
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, VerificationError

REPO = "alice/net"
COMMIT, UPLOAD = "POST .*/commit/", "PUT /_lfs/"


VALUES = np.arange(50_000, dtype="<f4")


def write_folder(folder: Path, values: np.ndarray = VALUES, **record: Any) -> Path:
    """Write what a conversion leaves behind, with one tensor."""
    folder.mkdir(exist_ok=True)
    weights = safetensors.numpy.save({"w": values})
    (folder / "model.safetensors").write_bytes(weights)
    record = {"verified": True, "weights_sha256": hashlib.sha256(weights).hexdigest(), **record}
    (folder / "config.json").write_text('{"architecture": "hucorz_efficientnet_b0"}')
    (folder / "README.md").write_text("---\nlibrary_name: timm\n---\n# Net\n")
    (folder / "conversion.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "folder")


@pytest.fixture(autouse=True)
def _alice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")


def assert_published(hub: LocalHub, folder: Path, repo: str = REPO, revision: str = "main") -> None:
    """Assert that a repository holds the folder's files, byte by byte."""
    for name in FILES:
        assert hub.read(repo, name, revision) == (folder / name).read_bytes(), name


def commits(hub: LocalHub, repo: str = REPO) -> int:
    """Return how many commits a repository has beside its first, empty one."""
    return len(hub.repos[repo].commits) - 1


def test_the_folder_is_published_in_one_commit(local_hub: LocalHub, folder: Path) -> None:
    done = publish(folder, Target(REPO))
    assert_published(local_hub, folder)
    assert commits(local_hub) == 1
    assert (done.url, done.is_private, done.is_new) == (f"{local_hub.url}/{REPO}", False, True)
    assert done.commit == local_hub.repos[REPO].at("main").sha


def test_a_folder_whose_name_looks_like_a_home(
    local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(Path("~nobody-of-that-name"))
    publish(folder, Target(REPO))
    assert_published(local_hub, folder)


def test_publishing_again_makes_no_commit(local_hub: LocalHub, folder: Path) -> None:
    publish(folder, Target(REPO))
    assert not publish(folder, Target(REPO)).is_new
    assert commits(local_hub) == 1


def test_other_files_of_the_repository_stay(local_hub: LocalHub, folder: Path) -> None:
    local_hub.add(REPO, {"LICENSE": b"Apache-2.0", "README.md": b"old"})
    publish(folder, Target(REPO))
    assert_published(local_hub, folder)
    assert local_hub.read(REPO, "LICENSE") == b"Apache-2.0"


def test_private(local_hub: LocalHub, folder: Path) -> None:
    assert publish(folder, Target(REPO, private=True)).is_private
    assert local_hub.repos[REPO].private


def test_a_public_repository_is_not_taken_for_a_private_one(local_hub: LocalHub, folder: Path) -> None:
    local_hub.add(REPO, {})
    with pytest.raises(EffNetExtError, match=r"alice/net: is public already. Leave out --private"):
        publish(folder, Target(REPO, private=True))
    assert commits(local_hub) == 0


def test_a_new_branch_leaves_main_alone(local_hub: LocalHub, folder: Path) -> None:
    done = publish(folder, Target(REPO, revision="raw"))
    assert_published(local_hub, folder, revision="raw")
    assert local_hub.repos[REPO].at("main").files == {}
    assert done.url.endswith("/alice/net/tree/raw")


def test_a_pull_request_to_another_user(local_hub: LocalHub, folder: Path) -> None:
    local_hub.add("bob/net", {})
    done = publish(folder, Target("bob/net", create_pr=True))
    assert_published(local_hub, folder, "bob/net", "refs/pr/1")
    assert local_hub.repos["bob/net"].at("main").files == {}
    assert done.url == f"{local_hub.url}/bob/net/discussions/1"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(UPLOAD, status=500, times=2),
        Fault(UPLOAD, cut_after=1000, times=2),
        Fault(COMMIT, status=503, times=2),
        Fault(COMMIT, status=429),
        Fault(COMMIT, cut_after=100),
        Fault("POST .*/preupload/", status=500),
        Fault("POST .*/objects/batch", status=502),
        Fault("POST /api/repos/create", status=500),
        Fault("GET /api/models/alice/net", status=504),
        Fault("GET .*/tree/", status=503),
        Fault("GET .*/tree/", lose_answer=True),
    ],
    ids=lambda fault: f"{fault.pattern} {fault.status or 'cut'}",
)
def test_a_hub_that_stumbles_is_asked_again(local_hub: LocalHub, folder: Path, fault: Fault) -> None:
    local_hub.faults.append(fault)
    assert publish(folder, Target(REPO)).is_new
    assert fault.times == 0
    assert_published(local_hub, folder)
    assert commits(local_hub) == 1


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        *itertools.product(
            ("GET /api/models/alice/net", "POST /api/validate-yaml", COMMIT), (b"", "<p>Zugriff über".encode("latin-1"))
        ),
        ("GET /api/models/alice/net", b"[]"),
    ],
)
def test_who_answers_in_the_hubs_place_is_asked_again(
    local_hub: LocalHub, folder: Path, request_: str, body: bytes
) -> None:
    fault = Fault(request_, status=502, body=body)
    local_hub.faults.append(fault)
    assert publish(folder, Target(REPO)).is_new
    fault.times = 1000
    folder = write_folder(folder, VALUES + 1)
    with pytest.raises(
        EffNetExtError, match=r"alice/net: the Hub('s answer is not one of a Hub| answered 502) .*later"
    ):
        publish(folder, Target(REPO))
    assert commits(local_hub) == 1


def test_a_commit_whose_answer_was_lost_is_found_and_not_repeated(local_hub: LocalHub, folder: Path) -> None:
    local_hub.faults.append(Fault(COMMIT, lose_answer=True))
    assert publish(folder, Target(REPO)).commit == local_hub.repos[REPO].at("main").sha
    assert commits(local_hub) == 1


def test_a_pull_request_whose_answer_was_lost_is_not_repeated(local_hub: LocalHub, folder: Path) -> None:
    local_hub.add(REPO, {})
    local_hub.faults.append(Fault(COMMIT, lose_answer=True))
    with pytest.raises(EffNetExtError, match=r"the Hub cannot be reached \(.*it may have been opened"):
        publish(folder, Target(REPO, create_pr=True))
    assert set(local_hub.repos[REPO].refs) == {"main", "refs/pr/1"}


@pytest.mark.parametrize("fault", [Fault(UPLOAD, status=500), Fault(UPLOAD, cut_after=1000), Fault(COMMIT, status=500)])
def test_a_hub_that_keeps_failing_leaves_an_empty_repository_and_says_so(
    local_hub: LocalHub, folder: Path, fault: Fault
) -> None:
    fault.times = 1000
    local_hub.faults.append(fault)
    message = (
        r"alice/net: the Hub (answered 500|cannot be reached) .* The repository was made before that; nothing in it"
    )
    with pytest.raises(EffNetExtError, match=message):
        publish(folder, Target(REPO))
    assert local_hub.repos[REPO].at("main").files == {}


def test_a_long_wait_is_left_to_the_user(local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    local_hub.faults.append(Fault(COMMIT, status=429, headers={"Retry-After": "20"}))
    publish(folder, Target(REPO))
    assert waited == [20]
    local_hub.faults.append(Fault("GET /api/models/alice/net", status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(EffNetExtError, match="the Hub answered 429"):
        publish(folder, Target(REPO))
    assert waited == [20]


def test_offline_nothing_is_waited_for(local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EffNetExtError, match=r"alice/net: the Hub was not asked: HF_HUB_OFFLINE is set. Unset it."):
        publish(folder, Target(REPO))
    assert (waited, local_hub.requests) == ([], [])


def test_other_bytes_on_the_hub_are_not_announced_as_done(local_hub: LocalHub, folder: Path) -> None:
    local_hub.faults.append(Fault(COMMIT, body=b"something else"))
    with pytest.raises(VerificationError, match=r"the Hub holds other bytes than were sent for model.safetensors"):
        publish(folder, Target(REPO))


def test_weights_that_change_after_they_were_checked_are_not_published(
    local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_commit, weights = HfApi.create_commit, folder / "model.safetensors"

    def late(api: HfApi, *args: Any, **kwargs: Any) -> Any:
        weights.write_bytes(bytes(weights.stat().st_size))
        return create_commit(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(EffNetExtError, match=r"the Hub answered 400 \(sha256 mismatch\)"):
        publish(folder, Target(REPO))
    assert local_hub.repos[REPO].at("main").files == {}


def test_a_commit_of_someone_else_meanwhile_is_not_overwritten(
    local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_commit = HfApi.create_commit

    def late(api: HfApi, *args: Any, **kwargs: Any) -> Any:
        local_hub.repos[REPO].commit("main", "theirs", {})
        return create_commit(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(EffNetExtError, match=r"the Hub answered 412 .* Someone else committed meanwhile. Push again"):
        publish(folder, Target(REPO))
    assert local_hub.repos[REPO].at("main").title == "theirs"


def test_no_token(local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(EffNetExtError, match=r"no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN"):
        publish(folder, Target(REPO))
    assert local_hub.requests == []


def test_a_wrong_token_is_not_printed(local_hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(EffNetExtError, match=r"the Hub answered 401 .* Is the token right\?") as caught:
        publish(folder, Target(REPO))
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["bob/net", "bob/new"])
def test_no_permission(local_hub: LocalHub, folder: Path, name: str) -> None:
    local_hub.add("bob/net", {})
    with pytest.raises(EffNetExtError, match=rf"{name}: the Hub answered 403 .* May your token write to {name}\?"):
        publish(folder, Target(name))


def test_a_pull_request_to_no_repository(local_hub: LocalHub, folder: Path) -> None:
    with pytest.raises(EffNetExtError, match=r"bob/absent: the Hub shows no .*repository.* A pull request needs"):
        publish(folder, Target("bob/absent", create_pr=True))
    assert local_hub.repos == {}


def test_a_card_that_the_hub_does_not_take(local_hub: LocalHub, folder: Path) -> None:
    (folder / "README.md").write_text("no metadata")
    with pytest.raises(EffNetExtError, match=r"alice/net: README.md was refused: .* - no metadata The repo"):
        publish(folder, Target(REPO))


def test_the_hub_is_down(local_hub: LocalHub, folder: Path) -> None:
    local_hub.stop()
    with pytest.raises(EffNetExtError, match=r"the Hub cannot be reached \(.*refused\)"):
        publish(folder, Target(REPO))


@pytest.mark.parametrize("name", ["net", "a/b/c", "alice/a b", "alice/", "alice/net.git", "alice/-"])
def test_no_name_for_a_repository(name: str) -> None:
    with pytest.raises(EffNetExtError, match=f"{re.escape(name)}: no name for a repository"):
        Target(name)


@pytest.mark.parametrize("missing", FILES)
def test_an_unfinished_folder(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointFormatError, match=f"no folder that convert wrote: {missing} not there"):
        files_to_publish(folder)


def test_a_folder_without_verification(folder: Path) -> None:
    write_folder(folder, verified=False)
    with pytest.raises(VerificationError, match=r"was not verified, so it is not published. Convert it again without"):
        files_to_publish(folder)


def test_weights_that_changed_since(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointFormatError, match=r"model.safetensors: was changed after it was verified"):
        files_to_publish(folder)


def test_the_record_of_what_is_published(local_hub: LocalHub, folder: Path) -> None:
    assert published_record(REPO) is None
    local_hub.add(REPO, {"conversion.json": (folder / "conversion.json").read_bytes()})
    assert published_record(REPO) is None
    publish(folder, Target(REPO))
    assert published_record(REPO) == json.loads((folder / "conversion.json").read_text())


@pytest.mark.parametrize("fault", [{"status": 500}, {"lose_answer": True}])
def test_a_record_that_cannot_be_fetched_is_asked_for_again(
    local_hub: LocalHub, folder: Path, fault: dict[str, Any]
) -> None:
    publish(folder, Target(REPO))
    local_hub.faults.append(Fault("/resolve/", **fault, times=1000))
    with pytest.raises(
        EffNetExtError, match=r"alice/net: the Hub (answered 500|cannot be reached) .* Push again later"
    ):
        published_record(REPO)
    local_hub.faults[0].times = 1
    assert published_record(REPO) == json.loads((folder / "conversion.json").read_text())
