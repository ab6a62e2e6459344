"""`google` as it is typed: what Google published, listed, converted and published."""

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
    assert main(["google", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(archives()) + 2  # names of the columns, and a line below them
    assert lines[2].split() == ["efficientnet_b0.in1k", "76.7", B0.url]


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["google", "list", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(archives())
    assert rows[0]["model"] == "efficientnet_b0"


def test_a_checkpoint_into_a_folder(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["google", "convert", B0.name, "-o", str(out), "--quiet"]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert f"wrote         {out}: hucorz_efficientnet_b0, plausible, not compared\n" in capsys.readouterr().out


def test_a_checkpoint_onto_the_hub_and_into_a_folder(
    local_hub: LocalHub, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["google", "publish", B0.name, "alice/net", "-o", str(out), "--private"]) == 0
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
    assert main(["google", "publish", B0.name, "alice", "--json", "--quiet"]) == 0
    assert sorted(local_hub.repos[REPO].at("main").files) == sorted(FILES)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["published"]["url"] == f"{local_hub.url}/{REPO}"
    assert printed.err == ""


def test_a_dry_run_needs_no_token_and_no_hub(
    local_hub: LocalHub, server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    local_hub.stop()
    assert main(["google", "publish", B0.name, "alice", "--dry-run", "--create-pr"]) == 0
    out = capsys.readouterr().out
    assert f"would push    {REPO}, a pull request to branch main" in out
    assert "model.safetensors, 1," in out


def test_a_dry_run_over_all_of_them_needs_no_token(
    local_hub: LocalHub, server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("timm_effnet_ext.cli.google.archives", lambda: {B0.name: B0})
    assert main(["google", "publish-all", "alice", "--dry-run", "--quiet"]) == 0
    assert B0.name in capsys.readouterr().out


def test_no_token_is_said_before_anything_is_downloaded(
    local_hub: LocalHub, server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["google", "publish", B0.name, "alice"]) == 1
    assert capsys.readouterr().err.startswith("error: no token for the Hub. Log in")
    assert server.requests == []


def test_filling_an_account_ends_with_a_table_and_fails_if_one_failed(
    local_hub: LocalHub, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["google", "publish-all", "alice", "--quiet"]) == 1
    printed = capsys.readouterr()
    first, second = printed.out.splitlines()[2:4]
    assert first.split() == [B0.name, "published", f"{local_hub.url}/{REPO}"]
    assert second.split()[:2] == ["efficientnet_b1.in1k", "failed"]
    assert printed.err.startswith(f"error: {len(archives()) - 1} of {len(archives())} checkpoints failed: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required"),
        (["convert", B0.name], "the following arguments are required: -o/--out"),
        (["convert", B0.name, "-o", "y", "--model", "b0"], "unrecognized arguments: --model b0"),
        (["convert", B0.name, "-o", "y", "--private"], "unrecognized arguments: --private"),
        (["publish", B0.name], "the following arguments are required: USER/REPO"),
        (["publish", B0.name, "alice", "--no-verify"], "unrecognized arguments: --no-verify"),
        (["publish-all", "alice", "--create-pr"], "unrecognized arguments: --create-pr"),
        (["publish-all", "alice/net"], "argument USER: alice/net: expected USER alone"),
    ],
)
def test_wrong_combinations_cannot_be_typed(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["google", *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_name_that_is_none(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["google", "convert", "efficientnet_b9", "-o", "y"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: efficientnet_b9: Google published no checkpoint")
    assert err.count("\n") == 1


def test_a_hub_that_fails_half_way(local_hub: LocalHub, server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    local_hub.faults.append(Fault("PUT /_lfs/", cut_after=1000, times=1000))
    assert main(["google", "publish", B0.name, "alice", "--quiet"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"error: {REPO}: the Hub cannot be reached" in line
    assert "The repository was made before that; nothing in it is announced as done." in line
    assert local_hub.repos[REPO].at("main").files == {}
