"""Killed at any moment: what lies at the target, a folder or a repository, is the old or the new, whole."""

from __future__ import annotations

from pathlib import Path
from time import sleep  # by name: the local Hub takes `time.sleep` away

from safetensors import safe_open

from tests.campaign.conduct import BeginPart, Campaign, finish, start
from tests.convert._sources import tiny_bundle, tiny_variables
from tests.convert.test_publish import VALUES, write_folder
from tests.hub_server import LocalHub
from timm_effnet_ext.convert.pipeline import FILES, WEIGHTS_FILE, read_record
from timm_effnet_ext.files.storage import sha256

KILLS, SAMPLE = 50, 3
REPO = "alice/net"
# What `convert --push-to-hub` does after it has verified, which would take most of the time.
PUSH = """
import sys
from huggingface_hub.utils import disable_progress_bars
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.convert.publish import Target, publish
disable_progress_bars()
try:
    publish(sys.argv[1], Target(sys.argv[2]))
except EffNetExtError as err:
    sys.exit(f"error: {err}")
"""


def test_convert(campaign: Campaign, part: BeginPart, tmp_path: Path) -> None:
    source, out = tiny_bundle(tmp_path, tiny_variables(width_mult=0.5, depth_mult=1.0)), tmp_path / "out"
    command = ["convert", source, "-o", out, "--no-verify", "--quiet", "--overwrite", "--license"]
    whole = finish(start([*command, "old"]))
    assert whole.problem is None
    with part("convert, killed", "the target is the old folder or the new one, whole") as found:
        for case in campaign.cases(KILLS, SAMPLE):
            process = start([*command, "new"])
            sleep(campaign.rng("convert", case).uniform(0.4, 1.05) * whole.seconds)  # Python's start comes first
            process.kill()
            process.communicate()
            found.count(case, is_refused=False, problem=what_is_half(out, ("old", "new")))


def what_is_half(out: Path, licenses: tuple[str, ...]) -> str | None:
    """Return why a folder is not one conversion's, with nothing of another."""
    names = {path.name for path in out.iterdir()}
    if names != set(FILES):
        return f"the folder holds {names}"
    record = read_record(out)
    if record["license"] not in licenses or record["weights_sha256"] != sha256(out / WEIGHTS_FILE):
        return f"weights and record are not of one conversion: {record['license']}"
    with safe_open(out / WEIGHTS_FILE, framework="np") as file:
        return None if file.keys() else "no weights"


def test_push(campaign: Campaign, part: BeginPart, local_hub: LocalHub, tmp_path: Path) -> None:
    versions = [write_folder(tmp_path / str(n), VALUES + n) for n in range(KILLS + 2)]
    assert finish(start(["-c", PUSH, versions[0], REPO])).problem is None
    steps, published = len(local_hub.requests), 0
    with part("push, killed", "the branch holds the old files or the new ones; another push completes it") as found:
        for case in campaign.cases(KILLS, SAMPLE):
            rng = campaign.rng("push", case)
            local_hub.requests.clear()
            process = start(["-c", PUSH, versions[case + 1], REPO])
            moment = rng.randrange(steps)
            while len(local_hub.requests) <= moment and process.poll() is None:
                sleep(0.001)
            sleep(rng.uniform(0, 0.03))
            process.kill()
            process.communicate()
            there = [n for n in (published, case + 1) if is_published(local_hub, versions[n])]
            published = there[-1] if there else published
            found.count(case, is_refused=False, problem=None if there else "the branch is of neither folder")
        last = finish(start(["-c", PUSH, versions[-1], REPO]))
        completed = is_published(local_hub, versions[-1])
        found.count("last", is_refused=False, problem=last.problem or (None if completed else "not completed"))


def is_published(hub: LocalHub, folder: Path) -> bool:
    """Return whether a repository's branch holds a folder's files, every one of them."""
    return all(hub.read(REPO, name) == (folder / name).read_bytes() for name in FILES)
