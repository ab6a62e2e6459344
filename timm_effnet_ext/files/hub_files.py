"""Files of a repository on the Hub: which there are, and those that are asked for, in the client's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.files.hub_errors import hub_answer, hub_error, hub_explained, is_unreachable, retry
from timm_effnet_ext.files.hub_name import HubName
from timm_effnet_ext.files.storage import sha256
from timm_effnet_ext.hosts import announced_hash

_SHA1_DIGITS, _CHUNK = 40, 1 << 20


class Listing(NamedTuple):
    """The files of a repository in one state; the revision in `name` is a commit. `note` says what is not known."""

    name: HubName
    files: tuple[str, ...]
    note: str | None = None


def list_files(name: HubName) -> Listing:
    """Return what a repository holds, by the Hub, or by the cache where the Hub cannot be asked.

    Raises:
        EffNetExtError: The Hub does not show it, or cannot be asked and nothing of it is in the cache.
    """
    cached = _cached(name)
    with hub_explained(str(name)):
        try:
            return retry(lambda: _ask(name))
        except Exception as err:
            found = hub_error(err)
            if found is None or not is_unreachable(found):
                raise
            if cached is None:
                raise LocalEntryNotFoundError(str(name)) from found
            note = f"{hub_answer(found)}; of the repository, what lies in the cache was looked at"
    files = (path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file())
    return Listing(name._replace(revision=cached.name), tuple(sorted(files)), note)


def is_private(name: HubName) -> bool:
    """Whether a repository is for its owner's eyes alone.

    Raises:
        EffNetExtError: The Hub does not show it, or cannot be asked.
    """
    with hub_explained(str(name)):
        return bool(retry(lambda: HfApi(library_name="timm_effnet_ext").model_info(name.repo_id)).private)


def fetch(listing: Listing, files: Iterable[str], tell: Callable[[str], None]) -> Path:
    """Return the folder in which files of a repository lie under their names there; links, perhaps, to elsewhere.

    `tell` is given the name of each before it is downloaded.

    Raises:
        EffNetExtError: One cannot be had.
        CheckpointFormatError: One arrived with another hash than the Hub announced, and is gone from the cache.
    """
    repo, commit = listing.name.repo_id, listing.name.revision
    folder = Path()
    for file in files:
        link = try_to_load_from_cache(repo, file, revision=commit)
        if not isinstance(link, str):
            tell(file)
            link = _download(listing.name, file)
        folder = Path(link).parents[file.count("/")]
    return folder


def check_hash(link: Path, name: str) -> None:
    """Raise unless a file in the cache has the hash that the Hub announced; the client compares the length only.

    The hash of a large file is its sha256, of a small one git's, the sha1 of a blob; a mirror may give the plain sha1.

    Raises:
        CheckpointFormatError: It has another one, and is gone from the cache.
    """
    path, announced = link.resolve(), announced_hash(link)
    if announced and announced not in (_sha1s(path) if len(announced) == _SHA1_DIGITS else [sha256(path)]):
        path.unlink()
        raise CheckpointFormatError(f"{name} arrived with another sha256 than the Hub announced. Try again")


def _ask(name: HubName) -> Listing:
    api = HfApi(library_name="timm_effnet_ext")
    info = api.model_info(name.repo_id, revision=name.revision)
    api.resolve_revision(name.repo_id, revision=name.revision)  # the cache remembers it, for when nobody can be asked
    return Listing(name._replace(revision=info.sha), tuple(file.rfilename for file in info.siblings or ()))


def _cached(name: HubName) -> Path | None:
    """Return the folder of a repository's revision in the cache, which is called like the commit."""
    try:
        return Path(snapshot_download(name.repo_id, revision=name.revision, local_files_only=True))
    except IncompleteSnapshotError as err:
        return Path(err.snapshot_path)
    except LocalEntryNotFoundError:
        return None


def _download(name: HubName, file: str) -> str:
    with hub_explained(str(name)):
        link = retry(lambda: hf_hub_download(name.repo_id, file, revision=name.revision))
    check_hash(Path(link), f"{name}: {file}")
    return link


def _sha1s(path: Path) -> list[str]:
    """Return git's hash of a file, and that of its bytes alone."""
    digests = [sha1(b"blob %d\0" % path.stat().st_size), sha1()]
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in digests:
                digest.update(chunk)
    return [digest.hexdigest() for digest in digests]
