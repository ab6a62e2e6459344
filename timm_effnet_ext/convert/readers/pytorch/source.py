"""PyTorch's files -> Checkpoint: safetensors without torch, pickles by torch's own loader of weights.

contents.py says what a loaded pickle holds, shards.py which files are one checkpoint, statements.py, settings.py and
transformers.py what stands beside the weights.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Statement
from timm_effnet_ext.convert.readers.pytorch.contents import Contents, beside, contents, scalar, sorted_out
from timm_effnet_ext.convert.readers.pytorch.mapped import is_safetensors, mapped_tensors
from timm_effnet_ext.convert.readers.pytorch.pickles import load_pickle
from timm_effnet_ext.convert.readers.pytorch.settings import config_statements
from timm_effnet_ext.convert.readers.pytorch.shards import check_shards, is_index, shards_of
from timm_effnet_ext.convert.readers.pytorch.statements import class_names_of_data
from timm_effnet_ext.convert.readers.pytorch.transformers import trainer_step
from timm_effnet_ext.errors import CheckpointFormatError, located
from timm_effnet_ext.files.hub_format import INDEX_FILES, WEIGHT_FILES

_ZIP, _LEGACY = b"PK\x03\x04", bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # magic number of torch/serialization.py


def recognise(path: Path) -> Path | None:
    """Return the weight file, or the index of several, that a path names, if it is one of PyTorch's.

    A folder may be in timm's Hub format, or one that transformers wrote.
    """
    if path.is_dir():
        return next((path / name for name in (*WEIGHT_FILES, *INDEX_FILES) if (path / name).is_file()), None)
    if not path.is_file():
        return None
    return path if is_index(path) or is_safetensors(path) or _is_pickle(path) else None


@contextmanager
def open_torch(path: Path, *, crc: bool = True, is_local: bool = True) -> Iterator[Checkpoint]:
    """Open a file or folder that `recognise` knows. `crc` checks the whole of a zip first.

    With `is_local` the data folder and the class map that the arguments of a run name are looked for on this machine.

    Raises:
        CheckpointFormatError: Damaged, or with other Python objects than tensors, which are never loaded.
    """
    file = recognise(path)
    if file is None:
        raise CheckpointFormatError("is no PyTorch file")
    with located(file):
        found, form, files = _sharded(file, crc) if is_index(file) else (*_contents(file, crc), (file,))
    if (step := trainer_step(file)) is not None:
        found.variables.counters.setdefault("global_step", scalar(file, "global_step", step))
    own, unknown = config_statements(file)
    inside = (*own, *found.statements)
    said, run = beside(file, found.run, has_config=any(one.name or one.dialects for one in own))
    names = list(class_names_of_data(run)) if run and is_local else []
    said += [one for one in names if isinstance(one, Statement)]
    yield Checkpoint(
        path=path,
        framework="torch",
        format=form,
        files=files,
        variables=found.variables,
        statements=(*inside, *said) if own else (*said, *inside),
        notes=(*found.notes, *unknown, *(one for one in names if isinstance(one, str))),
    )


def _contents(file: Path, crc: bool) -> tuple[Contents, str]:
    """Return what one file holds, and what kind it is."""
    if is_safetensors(file):
        return Contents(sorted_out(mapped_tensors(file), {})), "safetensors"
    loaded, form = load_pickle(path=file, crc=crc)
    return contents(file, loaded), form


def _sharded(index: Path, crc: bool) -> tuple[Contents, str, tuple[Path, ...]]:
    """Return what the shards of an index hold together."""
    shards = shards_of(index)
    parts = []
    for shard in shards:
        with located(shard):
            parts.append(_contents(shard, crc))
    found, forms = zip(*parts, strict=True)
    tensors = {name: entry for part in found for name, entry in part.variables.model.items()}
    check_shards(shards, tensors)
    variables = replace(found[0].variables, model=tensors)
    return Contents(variables), f"{forms[0]} in {len(shards)} shards", (index, *shards)


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(len(_LEGACY))
    if head.startswith(_ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
            return path.suffix in (".pth", ".pt", ".bin")  # cut: its own reader says so
    return head == _LEGACY
