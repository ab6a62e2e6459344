"""`convert` with --google and --push-to-hub, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.archive_server import FileServer
from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.convert.google.archives import archives, find
from timm_effnet_ext.convert.pipeline import FILES

B0 = find("efficientnet_b0.in1k")
REPO = "alice/hucorz_efficientnet_b0.in1k"


def test_the_list_of_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--google", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(archives()) + 2  # names of the columns, and a line below them
    assert lines[2].split() == ["efficientnet_b0.in1k", "76.7", B0.url]


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", "--google", "list", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(archives())
    assert rows[0]["model"] == "efficientnet_b0"


def test_a_checkpoint_into_a_folder_and_onto_the_hub(
    local_hub: LocalHub, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["convert", "--google", B0.name, "-o", str(out), "--push-to-hub", "alice/net", "--private"]) == 0
    for name in FILES:
        assert local_hub.read("alice/net", name) == (out / name).read_bytes()
    assert local_hub.repos["alice/net"].private
    printed = capsys.readouterr()
    assert f"published     {local_hub.url}/alice/net (private, commit " in printed.out
    assert "publishing alice/net …" in printed.err
    assert "%" not in printed.err  # no bars where there is no terminal
    assert "hf_alice" not in printed.out + printed.err


def test_a_user_is_enough_and_no_folder_is_left(
    local_hub: LocalHub, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "--google", B0.name, "--push-to-hub", "alice", "--json", "--quiet"]) == 0
    assert sorted(local_hub.repos[REPO].at("main").files) == sorted(FILES)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["published"]["url"] == f"{local_hub.url}/{REPO}"
    assert printed.err == ""


def test_a_dry_run_needs_no_token_and_no_hub(
    local_hub: LocalHub, server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    local_hub.stop()
    assert main(["convert", "--google", B0.name, "--push-to-hub", "alice", "--dry-run", "--create-pr"]) == 0
    out = capsys.readouterr().out
    assert f"would push    {REPO}, a pull request to branch main" in out
    assert "model.safetensors, 1," in out


def test_a_dry_run_over_all_of_them_needs_no_token(
    local_hub: LocalHub, server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("timm_effnet_ext.cli.publishing.archives", lambda: {B0.name: B0})
    assert main(["convert", "--google", "all", "--push-to-hub", "alice", "--dry-run", "--quiet"]) == 0
    assert B0.name in capsys.readouterr().out


def test_no_token_is_said_before_anything_is_downloaded(
    local_hub: LocalHub, server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["convert", "--google", B0.name, "--push-to-hub", "alice"]) == 1
    assert capsys.readouterr().err.startswith("error: no token for the Hub. Log in")
    assert server.requests == []


def test_filling_an_account_ends_with_a_table_and_fails_if_one_failed(
    local_hub: LocalHub, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "--google", "all", "--push-to-hub", "alice", "--quiet"]) == 1
    printed = capsys.readouterr()
    first, second = printed.out.splitlines()[2:4]
    assert first.split() == [B0.name, "published", f"{local_hub.url}/{REPO}"]
    assert second.split()[:2] == ["efficientnet_b1.in1k", "failed"]
    assert printed.err.startswith(f"error: {len(archives()) - 1} of {len(archives())} checkpoints failed: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give a SOURCE, or --google MODEL.TAG in its place"),
        (["x", "--google", "list"], "give a SOURCE, or --google MODEL.TAG in its place"),
        (["x"], "say where to: -o FOLDER or --push-to-hub USER/REPO"),
        (["--google", "all"], "--google all goes to an account: --push-to-hub USER"),
        (["--google", "all", "--push-to-hub", "a/b"], "--google all goes to an account: --push-to-hub USER"),
        (["--google", "all", "--push-to-hub", "a", "--create-pr"], "--google all publishes on main"),
        (["--google", B0.name, "--model", "b0", "-o", "y"], "--model and --google name a model each"),
        (["x", "-o", "y", "--no-verify", "--reference", "r.npz"], "--reference and --images are for verifying"),
        (["x", "--push-to-hub", "a/b", "--no-verify"], "--push-to-hub publishes what was verified"),
        (["x", "-o", "y", "--private"], "belong to --push-to-hub"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["convert", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--google", "efficientnet_b9", "-o", "y"], "error: efficientnet_b9: Google published no checkpoint"),
        (["x", "--push-to-hub", "alice"], "error: alice: no name for a repository, expected USER/REPO"),
        (["x", "--push-to-hub", "alice/a b"], "error: alice/a b: no name for a repository: "),
    ],
)
def test_names_that_are_none(
    server: FileServer, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", *options]) == 1
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_hub_that_fails_half_way(local_hub: LocalHub, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    local_hub.faults.append(Fault("PUT /_lfs/", cut_after=1000, times=1000))
    assert main(["convert", "--google", B0.name, "--push-to-hub", "alice", "--quiet"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"error: {REPO}: the Hub cannot be reached" in line
    assert "The repository was made before that; nothing in it is announced as done." in line
    assert local_hub.repos[REPO].at("main").files == {}
