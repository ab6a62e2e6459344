"""A source, a path or a repository on the Hub -> an open Checkpoint: of a repository no other files are fetched."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.readers.keras.in_tensorflow import METADATA_FILE
from timm_effnet_ext.convert.readers.keras.source import MEMBERS
from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.convert.readers.pytorch.statements import LIGHTNINGS, SETTINGS_FILES
from timm_effnet_ext.convert.readers.pytorch.transformers import PROCESSOR_FILE, TRAINER_FILE
from timm_effnet_ext.convert.readers.unread import what_its_name_says
from timm_effnet_ext.convert.records import Progress
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_few
from timm_effnet_ext.files.hub_format import CLASS_NAMES_FILE, INDEX_SUFFIX, WEIGHT_FILES
from timm_effnet_ext.files.hub_name import HubName, is_hub_name, parse_hub_name

if TYPE_CHECKING:
    from timm_effnet_ext.files.hub import Listing

# What the readers of PyTorch's files look for beside them.
_TORCHS = (
    *(*SETTINGS_FILES, CLASS_NAMES_FILE, PROCESSOR_FILE, TRAINER_FILE),
    *(f"../{PROCESSOR_FILE}", f"../{LIGHTNINGS}"),
)
# Parts of TensorFlow's checkpoints, whose index is what is opened.
_STATE, _DATA = "checkpoint", re.compile(r"\.data-\d{5}-of-\d{5}$")
_SAVED_MODEL, (_CONFIG, _METADATA, _KERAS) = "saved_model.pb", MEMBERS
_OF_FOLDERS = (_SAVED_MODEL, _KERAS)
"""What, with files that belong to it, makes a checkpoint of its folder."""

_Form = Mapping[str, Sequence[str]]
"""Patterns of a file's name -> those of what belongs to it, from its folder; {stem} is its name without the suffix."""

_FORMS: tuple[_Form, ...] = (
    *({name + end: _TORCHS} for name in (*WEIGHT_FILES, "*.safetensors", "*.bin") for end in ("", INDEX_SUFFIX)),
    {_KERAS: (_CONFIG, _METADATA, "task.*", "preprocessor.json", "image_converter.json")},
    {
        **dict.fromkeys(("*.pth", "*.pt", "*.ckpt", "*.pth.tar"), _TORCHS),
        **dict.fromkeys(("*.keras", "*.h5", "*.hdf5", "*.tar", "*.tar.gz", "*.tgz"), ()),
        _SAVED_MODEL: ("variables/variables.*", METADATA_FILE),
        "*.index": ("{stem}.data-*",),
    },
)
"""In the order of preference; a repository with two of the first form that it has does not say which one is meant."""

# What trainers and other frameworks call so, and parts of checkpoints.
_OTHERS = (
    *("optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "training_args.*"),
    *("openvino_*.bin", "group*-shard*of*.bin", "*-?????-of-?????.*"),
)


def open_source(
    source: str | Path, *, crc: bool = True, progress: Progress = lambda step, done, total: None
) -> AbstractContextManager[Checkpoint]:
    """Open a path, or `hf-hub:USER/REPO[@REVISION][/PATH]`; its tensors can be read while it is open.

    `crc=False` leaves checksums of tensors out.

    Raises:
        CheckpointFormatError: No checkpoint, a damaged one, or several.
        EffNetExtError: It cannot be had from the Hub.
    """
    if is_hub_name(source):
        return _open_repository(parse_hub_name(source), crc, progress)
    return open_checkpoint(source, crc=crc)


@contextmanager
def _open_repository(name: HubName, crc: bool, progress: Progress) -> Iterator[Checkpoint]:
    """Open the checkpoint that a repository holds, or the one in it that is named; it is downloaded into the cache.

    What is said of it, errors included, names it and its commit, not where the cache keeps it.
    """
    from timm_effnet_ext.files.hub import list_files  # the Hub's client is slow to import

    listing = list_files(name)
    try:
        file, note = _choose(name, listing.files)
    except CheckpointFormatError as err:
        raise CheckpointFormatError(f"{err} ({listing.note})" if listing.note else str(err)) from err
    parts = _parts(file, listing.files)
    folder = _fetch(listing, (file, *sorted(parts)), progress)
    is_folder = posixpath.basename(file) in _OF_FOLDERS and parts
    path = folder / (posixpath.dirname(file) if is_folder else file)
    try:
        with open_checkpoint(path, crc=crc, is_local=False) as checkpoint:
            notes = [said for said in (listing.note, note) if said]
            yield replace(checkpoint, origin=str(listing.name), notes=(*notes, *checkpoint.notes))
    except EffNetExtError as err:
        err.args = (str(err).replace(str(folder), str(listing.name._replace(path=""))),)
        raise


def _choose(name: HubName, files: Collection[str]) -> tuple[str, str | None]:
    """Return the file of a repository that is to be opened, named or preferred, and a note of those that were left."""
    path = posixpath.dirname(name.path) if posixpath.basename(name.path) == _STATE else name.path
    named = next((file for file in (_DATA.sub(".index", path), path, f"{path}.index") if file in files), None)
    if named:
        if not any(_is_one_of(named, form) for form in _FORMS) and (said := what_its_name_says(named)):
            raise CheckpointFormatError(f"{name}: {said}")
        return named, None
    below = [file for file in files if not path or file.startswith(f"{path}/")]
    if files and not below:
        raise CheckpointFormatError(f"{name}: nothing in the repository is called so. It holds {first_few(files)}")
    depth = path.count("/") + bool(path)
    found = _checkpoints([file for file in below if file.count("/") == depth], files) or _checkpoints(below, files)
    if not found:
        unread = (f"{file} {said}" for file in below if (said := what_its_name_says(file)))
        said = next(unread, f"It holds {first_few(below) or 'nothing'}")
        raise CheckpointFormatError(f"{name}: no weights that are read. {said}")
    first, *others = found
    if len(first) > 1:
        names = first_few(str(name._replace(path=file)) for file in first)
        raise CheckpointFormatError(f"{name}: holds {len(first)} checkpoints. Name one of them: {names}")
    left = first_few(file for form in others for file in form)
    return first[0], left and f"{first[0]} was taken, and of the same repository not {left}"


def _checkpoints(files: Collection[str], everything: Collection[str]) -> list[Sequence[str]]:
    """Return the checkpoints among files by their form, the preferred one first."""
    kept = [file for file in files if not _is_one_of(file, _OTHERS)]
    parts = {part for form in _FORMS for file in kept if _is_one_of(file, form) for part in _parts(file, everything)}
    left = [file for file in kept if file not in parts]
    found = []
    for form in _FORMS:
        found.append([file for file in left if _is_one_of(file, form)])
        left = [file for file in left if file not in found[-1]]
    return list(filter(None, found))


def _is_one_of(file: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(posixpath.basename(file), pattern) for pattern in patterns)


def _parts(path: str, files: Collection[str]) -> set[str]:
    """Return which files belong to a checkpoint, but for the shards that its index names."""
    home, stem = posixpath.split(escape(posixpath.splitext(path)[0]))
    beside = next((beside for form in _FORMS for pattern, beside in form.items() if _is_one_of(path, [pattern])), ())
    wanted = [posixpath.normpath(posixpath.join(home, pattern.format(stem=stem))) for pattern in beside]
    return {file for file in files if any(fnmatchcase(file, pattern) for pattern in wanted)} - {path}


def _fetch(listing: Listing, files: Sequence[str], progress: Progress) -> Path:
    """Return the folder in which files of a repository lie, with the shards where the first is an index of them."""
    from timm_effnet_ext.files.hub import fetch

    def tell(file: str) -> None:
        progress(f"downloading {file}", 0, 1)

    folder = fetch(listing, files, tell)
    if files[0].endswith(INDEX_SUFFIX):
        fetch(listing, sorted(_shards(folder, files[0]) & {*listing.files}), tell)
    return folder


def _shards(folder: Path, index: str) -> set[str]:
    """Return which files of a repository an index names; none where it is damaged, as its reader will say."""
    try:
        names = json.loads((folder / index).read_bytes())["weight_map"].values()
        return {posixpath.join(posixpath.dirname(index), name) for name in names}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return set()
