"""A checkpoint in several files -> its shards: transformers' index says which file has which tensor.

    {"weight_map": {name of a tensor: name of a file beside the index, …}, …}

Source: huggingface_hub/serialization/_base.py `split_state_dict_into_shards_factory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry
from timm_effnet_ext.errors import CheckpointFormatError, first_few
from timm_effnet_ext.files.hub_format import INDEX_SUFFIX, read_object

INDEX_SUFFIXES = tuple(kind + INDEX_SUFFIX for kind in (".safetensors", ".bin"))


def is_index(path: Path) -> bool:
    """Whether a file is called as an index of shards is."""
    return path.name.endswith(INDEX_SUFFIXES)


def shards_of(index: Path) -> dict[Path, set[str]]:
    """Return the shards that an index names, each with the names of its tensors.

    Raises:
        CheckpointFormatError: The index is damaged, names a file that does not lie beside it, or a shard is missing.
    """
    names = _weight_map(index)
    if outside := {name for name in names.values() if not _is_plain(name)}:
        raise CheckpointFormatError(f"its weight_map names {first_few(outside, 2)}, expected files beside the index")
    found: dict[Path, set[str]] = {}
    for tensor, name in names.items():
        found.setdefault(index.with_name(name), set()).add(tensor)
    if missing := [shard.name for shard in found if not shard.is_file()]:
        raise CheckpointFormatError(
            f"{len(missing)} of {len(found)} shards are not there: {first_few(missing, 3)}. "
            "Copy or download all files that the index names into its folder"
        )
    return dict(sorted(found.items()))


def check_shards(shards: Mapping[Path, set[str]], tensors: Mapping[str, TensorEntry]) -> None:
    """Raise unless the files hold what their index says.

    Raises:
        CheckpointFormatError: A tensor is in another file than the index says, in none, or not in the index.
    """
    placed = {name: shard for shard, names in shards.items() for name in names}
    wrong = {name for name in placed.keys() | tensors.keys()
             if name not in tensors or tensors[name].file != placed.get(name)}  # fmt: skip
    if wrong:
        raise CheckpointFormatError(
            f"{len(wrong)} tensors are not in the shards where the index says: {first_few(wrong, 3)}. "
            "Are they of one checkpoint?"
        )


def _weight_map(index: Path) -> dict[str, str]:
    names: Any = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointFormatError("expected a weight_map from the names of tensors to files beside the index")
    return names


def _is_plain(name: str) -> bool:
    """Whether a text is the name of a file and no path, on any system."""
    return name not in ("", ".", "..") and name == PurePosixPath(name).name == PureWindowsPath(name).name
