"""Google's table against timm's registry, and its archives from a local server, into folders and into a local Hub."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import timm

import timm_effnet_ext  # noqa: F401  registers the models
from tests._google_archive import archive, variables
from tests.archive_server import FileServer
from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from tests.processes import imported_by
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.google.archives import Archive, Outcome, archives, convert_archive, fill, find, options_for
from timm_effnet_ext.convert.records import Options, Report
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, NameMappingError
from timm_effnet_ext.models.hucorz_efficientnet import pretrained_cfgs

ABSENT_FROM_TIMM = {f"efficientnetv2_b{n}.{tag}" for n in range(3) for tag in ("in21k", "in21k_ft_in1k")}
TIMMS_ARCHS = [f"tf_{name}" for name in ARCHS]
B0, B0_AA, LITE0 = map(find, ("efficientnet_b0.in1k", "efficientnet_b0.aa_in1k", "efficientnet_lite0.in1k"))
REPO = "alice/hucorz_efficientnet_b0.in1k"


def convert_b0(folder: Path, **options: object) -> Report:
    """Convert the mirror's efficientnet_b0.in1k without running it."""
    return convert_archive(B0, folder, Options(verify=False, **options), lambda *what: None)


def timms_tags() -> set[str]:
    """Return MODEL.TAG of timm's tf_* models that are among our architectures."""
    names = timm.list_pretrained("tf_*")
    return {name.removeprefix("tf_") for name in names if name.partition(".")[0] in TIMMS_ARCHS}


def test_the_table_is_timms_and_six_more() -> None:
    assert archives().keys() - timms_tags() == ABSENT_FROM_TIMM
    assert len(archives()) == 69
    assert len(timms_tags()) == 64
    assert timms_tags() - archives().keys() == {"efficientnet_b8.ra_in1k"}


def test_every_archive_has_a_registered_tag_and_an_address_of_its_own() -> None:
    assert Counter(found.path for found in archives().values()).most_common(1)[0][1] == 1
    for name, found in archives().items():
        assert found.tag in pretrained_cfgs(found.model), name


def test_the_table_needs_neither_torch_nor_timm() -> None:
    assert imported_by(["google", "list"], "torch", "timm", "huggingface_hub") == set()


@pytest.mark.parametrize("name", ["efficientnet_b0.in1k", "hucorz_efficientnet_b0.in1k", "tf_efficientnet_b0.in1k"])
def test_names(name: str) -> None:
    assert find(name) is B0
    assert find("efficientnet_b8").name == "efficientnet_b8.ap_in1k"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("efficientnet_b8.in1k", "Did you mean efficientnet_b8.ap_in1k"),
        ("efficientnet_l2", "Did you mean efficientnet_l2.ns_jft_in1k_475, efficientnet_l2.ns_jft_in1k"),
        ("efficientnet_b9.in1k", "Did you mean efficientnet_b"),
        ("resnet50.a1", "`google list` prints them all"),
    ],
)
def test_a_name_that_is_not_there(name: str, hint: str) -> None:
    with pytest.raises(EffNetExtError, match=rf"{name}: Google published no checkpoint of that name. .*{hint}"):
        find(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_b0.in1k", {"mean": (0.485, 0.456, 0.406), "input_size": (3, 224, 224), "num_classes": 1000}),
        ("efficientnet_b0.ap_in1k", {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.875}),
        ("efficientnet_l2.ns_jft_in1k_475", {"input_size": (3, 475, 475), "crop_pct": 0.936}),
        ("efficientnet_es.in1k", {"num_classes": 1000, "mean": (0.5, 0.5, 0.5)}),
        ("efficientnetv2_b0.in21k", {"num_classes": 21843, "input_size": (3, 192, 192)}),
        ("efficientnetv2_s.in21k_ft_in1k", {"num_classes": 1000, "test_input_size": (3, 384, 384)}),
    ],
)
def test_what_the_registry_knows_of_an_archive(name: str, expected: dict[str, object]) -> None:
    options = options_for(find(name), Options(license="apache-2.0"))
    known = {**options.pretrained_cfg, "num_classes": options.num_classes}
    assert expected.items() <= known.items()
    assert options.license == "apache-2.0"
    assert options.model == name.partition(".")[0]


def test_an_archive_becomes_a_folder_with_its_origin(google: FileServer, tmp_path: Path) -> None:
    google.files[B0.path] = archive(variables())
    report = convert_b0(tmp_path / "out")
    assert (report.arch, report.weights, report.num_classes) == ("efficientnet_b0", "ema", 1000)
    assert report.origin == f"{google.url}/ckpts/efficientnet-b0.tar.gz"
    record = json.loads((tmp_path / "out/conversion.json").read_text())
    assert record["origin_version"] == report.origin_version != ""
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["pretrained_cfg"]["tag"] == "in1k"


def test_preprocessing_is_the_tags(google: FileServer, tmp_path: Path) -> None:
    ap = find("efficientnet_b0.ap_in1k")
    google.files[ap.path] = archive(variables())
    report = convert_archive(ap, tmp_path / "out", Options(verify=False), lambda *what: None)
    assert tuple(report.pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("keep_background", "classes"), [(False, 1000), (True, 1001)])
def test_the_background_class_of_edgetpu(
    google: FileServer, tmp_path: Path, keep_background: bool, classes: int
) -> None:
    es = find("efficientnet_es.in1k")
    google.files[es.path] = archive(variables("efficientnet_es", num_classes=1001), "efficientnet-edgetpu-S")
    options = Options(verify=False, keep_background=keep_background)
    assert convert_archive(es, tmp_path / "out", options, lambda *what: None).num_classes == classes


def test_a_cut_download_ends_in_the_same_folder(google: FileServer, tmp_path: Path) -> None:
    google.files[B0.path] = archive(variables())
    google.faults.append(Fault("GET", cut_after=100_000, times=2))
    convert_b0(tmp_path / "out")
    assert sum(request.startswith("GET") for request in google.requests) == 3


def test_an_archive_of_another_model(google: FileServer, tmp_path: Path) -> None:
    google.files[B0.path] = archive(variables("efficientnet_lite0"), "efficientnet-lite0")
    with pytest.raises(NameMappingError, match="is not efficientnet_b0: it fits efficientnet_lite0"):
        convert_b0(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_with_other_classes(google: FileServer, tmp_path: Path) -> None:
    google.files[B0.path] = archive(variables(num_classes=10))
    with pytest.raises(EffNetExtError, match=r"10 classes came out, expected 1000: another checkpoint\?"):
        convert_b0(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_is_none(google: FileServer, tmp_path: Path) -> None:
    google.files[B0.path] = b"<html>" * 100
    with pytest.raises(CheckpointFormatError, match="the server sent 600 bytes that are no archive"):
        convert_b0(tmp_path / "out")
    assert not list((tmp_path / "assets").rglob("*.tar.gz"))


def test_a_cut_archive(google: FileServer, tmp_path: Path) -> None:
    google.files[B0.path] = archive(variables())[:-1000]
    with pytest.raises(CheckpointFormatError, match="broken archive"):
        convert_b0(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "assets").rglob("*.tar.gz"))  # the next attempt fetches it anew


def test_an_archive_that_is_gone(google: FileServer, tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match=r"ckpts/efficientnet-b0.tar.gz: the server answered 404 Not Found"):
        convert_b0(tmp_path / "out")


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
