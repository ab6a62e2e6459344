"""Targets that cannot be written, or not by one alone: a full disk, a closed folder, a link, another writer."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaign.conduct import Answer, BeginPart, Campaign, finish, start
from tests.campaign.inputs import hub_folder, run_file
from tests.campaign.test_killed import PUSH, REPO, is_published, what_is_half
from tests.convert._sources import tiny_bundle
from tests.convert.test_publish import VALUES, write_folder
from tests.hub_server import LocalHub
from tests.processes import obey_modes
from timm_effnet_ext.train.runs import ARGS_FILE


def convert(folder: Path, target: Path) -> list[object]:
    return ["convert", tiny_bundle(folder), "-o", target, "--no-verify", "--quiet", "--license", "one"]


def predict(folder: Path, target: Path) -> list[object]:
    config = hub_folder(folder)
    return ["predict", config.parent, config.with_name("photo.png"), "--cam", target, "--json"]


def plot(folder: Path, target: Path) -> list[object]:
    return ["plot", run_file(ARGS_FILE)(folder).parent, "-o", target]


Writer = Callable[[Path, Path], list[object]]
WRITERS: dict[str, tuple[Writer, str]] = {
    "convert": (convert, "out"), "predict --cam": (predict, "cam.png"), "plot": (plot, "curves.svg")
}  # fmt: skip


@pytest.fixture(autouse=True)
def _is_worth_it(request: pytest.FixtureRequest, campaign: Campaign) -> None:
    if not campaign.is_whole and "predict --cam" in request.node.name:
        pytest.skip("several seconds to import torch: in `make campaign` only")


def what_is_wrong(told: Answer, target: Path) -> str | None:
    """Return what a command that could not write, or could, did wrong."""
    left = {path.name for path in target.parent.iterdir()}
    if told.problem or told.code:
        return told.problem or (f"refused, yet wrote {left}" if left else None)
    if left != {target.name}:
        return f"done, yet there are {left}"
    return what_is_half(target, ("one",)) if target.is_dir() else None


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk(name: str, campaign: Campaign, part: BeginPart, tmp_path: Path) -> None:
    writer, file = WRITERS[name]
    written = tmp_path / "written"
    command = writer(tmp_path / "source", written / file)
    with part(f"{name}, full disk", "what was written fitted") as found:
        for case in campaign.cases(20, 1):
            shutil.rmtree(written, ignore_errors=True)
            written.mkdir()
            limit = campaign.rng("disk", name, case).randrange(30_000)

            def fill(limit: int = limit) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails as on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            told = finish(start(command, preexec_fn=fill))
            found.count(case, bool(told.code), what_is_wrong(told, written / file))


@pytest.mark.parametrize("name", WRITERS)
def test_closed_folder(name: str, part: BeginPart, tmp_path: Path) -> None:
    writer, file = WRITERS[name]
    closed = tmp_path / "closed"
    command = writer(tmp_path / "source", closed / file)
    closed.mkdir(mode=0o500)
    with part(f"{name}, read-only target", "") as found:
        told = finish(start(command, preexec_fn=obey_modes))
        problem = what_is_wrong(told, closed / file) or (None if told.code else "wrote into a closed folder")
        found.count(name, bool(told.code), problem)


@pytest.mark.parametrize("name", WRITERS)
def test_link(name: str, campaign: Campaign, part: BeginPart, tmp_path: Path) -> None:
    writer, file = WRITERS[name]
    target, precious = _made(tmp_path / "written") / file, tmp_path / "precious"
    command = writer(tmp_path / "source", target)
    with part(f"{name}, a link as target", "the link was replaced; what it leads to is as it was") as found:
        for case in campaign.cases(3, 1):
            target.unlink(missing_ok=True)
            kind = ("folder", "file", "nothing")[case]
            if kind == "folder":
                (_made(precious) / "thesis").write_text("years")
            elif kind == "file":
                precious.write_text("years")
            target.symlink_to(precious)
            before = _content(precious)
            told = finish(start(command))
            problem = told.problem or (None if _content(precious) == before else "wrote where the link leads to")
            found.count(kind, bool(told.code), problem)
            shutil.rmtree(precious) if precious.is_dir() else precious.unlink(missing_ok=True)


def _content(path: Path) -> dict[str, str]:
    """Return the files at a path and below it."""
    return {file.name: file.read_text() for file in (path, *path.glob("*")) if file.is_file()}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_two_conversions(campaign: Campaign, part: BeginPart, tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path)
    with part("convert, two on one target", "the target is one's, whole; the other is told so") as found:
        for case in campaign.cases(10, 1):
            out = tmp_path / f"out-{case}"
            command = ["convert", source, "-o", out, "--no-verify", "--quiet", "--license"]
            told = [finish(process) for process in [start([*command, name]) for name in ("one", "two")]]
            found.count(case, any(one.code for one in told), _of_two(told) or what_is_half(out, ("one", "two")))
        assert not list(tmp_path.glob(".out-*"))


def test_two_pushes(campaign: Campaign, part: BeginPart, local_hub: LocalHub, tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / str(n), VALUES + n) for n in range(2)]
    with part("push, two to one repository", "the branch holds one's files, all of them") as found:
        for case in campaign.cases(10, 1):
            local_hub.repos.clear()
            told = [finish(process) for process in [start(["-c", PUSH, folder, REPO]) for folder in folders]]
            is_whole = any(is_published(local_hub, folder) for folder in folders)
            found.count(case, any(one.code for one in told), _of_two(told) or (None if is_whole else "a mix"))


def _of_two(told: list[Answer]) -> str | None:
    """Return what is wrong with how two writers ended: one of them at least is done."""
    problems = [one.problem for one in told if one.problem]
    return problems[0] if problems else None if any(not one.code for one in told) else f"neither is done: {told}"
