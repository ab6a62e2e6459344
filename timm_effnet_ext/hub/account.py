"""Fills a Hub account with Google's checkpoints, one repository each, under the names that the registry looks for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from timm_effnet_ext.arch.rows import PREFIX
from timm_effnet_ext.convert.google.archives import Archive, cache_folder, convert_archive
from timm_effnet_ext.convert.google.download import look_up
from timm_effnet_ext.convert.records import Options, Progress
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.hub.publish import Target, publish, published_record

Status = Literal["published", "skipped", "failed", "to do"]


class Outcome(NamedTuple):
    """What became of one checkpoint."""

    name: str
    repo_id: str
    status: Status
    detail: str  # the address, or why not


def repo_id_for(user: str, archive: Archive) -> str:
    """Return the repository that TIMM_EFFNET_EXT_HUB=user makes `pretrained=True` look for."""
    return f"{user}/{PREFIX}{archive.name}"


def fill(
    user: str,
    chosen: Iterable[Archive],
    options: Options,
    progress: Progress,
    *,
    private: bool = False,
    dry_run: bool = False,
) -> Iterator[Outcome]:
    """Yield what became of each checkpoint, as soon as it is known; one that fails does not stop the others.

    What is there already, verified and from the same archive, is skipped, so an interrupted run can be repeated.
    """
    chosen = tuple(chosen)
    for n, archive in enumerate(chosen, 1):
        progress(f"{n} of {len(chosen)}: {archive.name}", 0, 1)
        target = Target(repo_id_for(user, archive), private=private)
        try:
            outcome = _one(archive, target, options, progress, dry_run)
        except (EffNetExtError, OSError) as err:
            outcome = "failed", " ".join(str(err).split())
        yield Outcome(archive.name, target.repo_id, *outcome)


def _one(archive: Archive, target: Target, options: Options, progress: Progress, dry_run: bool) -> tuple[Status, str]:
    remote = look_up(archive.url)
    record = published_record(target.repo_id) or {}
    if record.get("verified") and (record["origin"], record.get("origin_version")) == (remote.url, remote.version):
        return "skipped", "is there, verified, from this archive"
    if dry_run:
        return "to do", f"{remote.size:,} bytes to download"
    with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
        out = Path(folder, "converted")
        convert_archive(archive, out, replace(options, repo_id=target.repo_id), progress)
        url = publish(out, target).url
    remote.path(cache_folder()).unlink(missing_ok=True)  # all of them would fill a disk
    return "published", url
