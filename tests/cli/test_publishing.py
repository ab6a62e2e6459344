"""`convert SOURCE --push-to-hub`, as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.convert._sources import DATA
from tests.hub_server import LocalHub
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.convert.pipeline import FILES

SOURCE = (str(DATA / "tpu_lite0"), "--reference", str(DATA / "tpu_lite0" / "reference_raw.npz"))


@pytest.fixture(autouse=True)
def _alice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_checkpoint_is_converted_and_published_in_one_call(
    local_hub: LocalHub, tmp_path: Path, is_kept: bool
) -> None:
    out = tmp_path / "out"
    folder = ["-o", str(out)] if is_kept else []
    assert main(["convert", *SOURCE, *folder, "--push-to-hub", "alice/net", "--revision", "raw", "--quiet"]) == 0
    published = {name: local_hub.read("alice/net", name, "raw") for name in FILES}
    assert out.exists() == is_kept
    assert not is_kept or published == {name: (out / name).read_bytes() for name in FILES}
    assert local_hub.repos["alice/net"].at("main").files == {}


def test_the_card_names_the_repository(local_hub: LocalHub) -> None:
    assert main(["convert", *SOURCE, "--push-to-hub", "alice/net", "--quiet"]) == 0
    assert "hf-hub:alice/net" in local_hub.read("alice/net", "README.md").decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "y"], "the following arguments are required: SOURCE"),
        (["x"], "say where to: -o FOLDER or --push-to-hub USER/REPO"),
        (["x", "--push-to-hub", "a/b", "--no-verify"], "--no-verify: not allowed with argument --push-to-hub"),
        (["x", "-o", "y", "--private"], "--private, --create-pr, --revision and --dry-run belong to --push-to-hub"),
        (["--google", "efficientnet_b0.in1k", "-o", "y"], ",google,"),  # where it is now
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
        (["--push-to-hub", "alice"], "error: alice: no name for a repository, expected USER/REPO"),
        (["--push-to-hub", "alice/a b"], "error: alice/a b: no name for a repository: "),
        (["-o", "y", "--no-verify", "--reference", "r"], "error: --reference and --images are for verifying: leave"),
        (["-o", "y", "--no-verify", "--images", "r"], "error: --reference and --images are for verifying: leave out"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "x", *options]) == 1
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1
