"""The checkpoints that Google published: their table, how each is converted, and how all are published."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from timm_effnet_ext.arch.rows import PREFIX, row_name
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.readers.tensorflow.source import recognise
from timm_effnet_ext.convert.records import Options, Progress, Report
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError
from timm_effnet_ext.files.hub_format import PREPROCESSING

if TYPE_CHECKING:  # the Hub's client is imported by those who need it
    from timm_effnet_ext.convert.publish import Target

HOST = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientnet"
MIRROR_ENV = "TIMM_EFFNET_EXT_MIRROR"
"""An address that holds the same archives and is asked instead of HOST."""

Status = Literal["published", "skipped", "failed", "to do"]


class Archive(NamedTuple):
    """One published checkpoint: a row of checkpoints.tsv."""

    model: str  # row of ARCHS
    tag: str  # timm's, or one of the same kind
    reported_top1: float | None  # percent, where Google's table has it
    path: str  # below HOST
    source: str  # where Google lists it: repository and file

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return f"{self.model}.{self.tag}"

    @property
    def url(self) -> str:
        """The address it is fetched from."""
        return f"{os.environ.get(MIRROR_ENV, HOST).rstrip('/')}/{self.path}"


@lru_cache
def archives() -> Mapping[str, Archive]:
    """Return the published checkpoints by name."""
    text = Path(__file__).with_name("checkpoints.tsv").read_text(encoding="utf-8")
    rows = csv.reader(text.splitlines()[1:], delimiter="\t")
    found = [
        Archive(model, tag, float(top1) if top1 else None, path, source) for model, tag, top1, path, source in rows
    ]
    return MappingProxyType({archive.name: archive for archive in found})


def find(name: str) -> Archive:
    """Return the checkpoint of that name; a registry prefix may stand before it.

    Raises:
        EffNetExtError: Google published none, or several and the tag is not said.
    """
    name = row_name(name)
    if name in archives():
        return archives()[name]
    model, _, tag = name.partition(".")
    tags = [archive.name for archive in archives().values() if archive.model == model]
    if len(tags) == 1 and not tag:
        return archives()[tags[0]]
    close = tags or get_close_matches(name, archives(), n=3)
    hint = f"Did you mean {', '.join(close)}?" if close else "`google list` prints them all."
    raise EffNetExtError(f"{name}: Google published no checkpoint of that name. {hint}")


def options_for(archive: Archive, options: Options) -> Options:
    """Return the options with what is known of a checkpoint: model, classes, preprocessing, origin.

    Source: the pretrained cfgs of our registry, which are timm's. Imports timm.
    """
    from timm_effnet_ext.models.hucorz_efficientnet import pretrained_cfgs

    cfg = pretrained_cfgs(archive.model)[archive.tag]
    known: dict[str, Any] = {name: getattr(cfg, name) for name in PREPROCESSING if getattr(cfg, name) is not None}
    known |= {"tag": archive.tag, "origin_url": archive.url}
    num_classes = None if options.keep_background else cfg.num_classes
    return replace(
        options, model=archive.model, num_classes=num_classes, pretrained_cfg=known,
        knows="timm's cfg of these weights", origin=archive.url,
    )  # fmt: skip


def cache_folder() -> Path:
    """Return where archives lie: in the cache of the Hub's client, which its tools can tidy."""
    from huggingface_hub import cached_assets_path

    return cached_assets_path("timm_effnet_ext", "google", "archives")


def convert_archive(archive: Archive, out: str | Path, options: Options, progress: Progress) -> Report:
    """Download a published checkpoint, unless it is in the cache, and convert it.

    Raises:
        EffNetExtError: It could not be had; and what `convert` raises, an archive of another model included. One
            that is damaged is not kept.
    """
    from timm_effnet_ext.convert.google.download import fetch, look_up

    remote = look_up(archive.url)
    path = fetch(remote, cache_folder(), progress)
    source = recognise(path)
    if source is None or source.prefix is not None:
        path.unlink()
        raise CheckpointFormatError(f"{archive.url}: the server sent {remote.size} bytes that are no archive")
    try:
        return convert(path, out, replace(options_for(archive, options), origin_version=remote.version), progress)
    except CheckpointFormatError:
        path.unlink(missing_ok=True)  # else the next attempt would meet it again
        raise


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
    from timm_effnet_ext.convert.publish import Target

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
    from timm_effnet_ext.convert.google.download import look_up
    from timm_effnet_ext.convert.publish import publish, published_record

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
