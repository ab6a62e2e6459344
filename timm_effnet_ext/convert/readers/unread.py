"""What a path is that no reader takes, and the way out: the kind of file is told by its name and its first bytes."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from timm_effnet_ext.errors import first_few

_HEAD = 4096  # bytes of a file that are looked at
_MAX_JSON = 64 << 20  # bytes
_SHARD = re.compile(r".+-\d{5}-of-(?P<count>\d{5})\.(safetensors|bin|pth|pt)")
_ADDRESS = re.compile(r"\w\w+:/")  # of which a path keeps one slash
_WEIGHTS = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors", ".h5", ".hdf5", ".keras")
_EXPECTED = "Expected a TensorFlow checkpoint or SavedModel, Keras' .keras or .h5, or PyTorch's .pth or .safetensors"
_FOLDED = "BatchNorm is folded into the convolutions there, and names are gone. Ask its author for"
_NAMED = "Save it as safetensors, under names that the table in docs/converting.md has"
_STATE = "save model.state_dict() with torch.save"


class _File(NamedTuple):
    """A file that nobody reads: its path, its first bytes, and the names in it if it is a zip."""

    path: Path
    head: bytes
    members: Sequence[str]

    def ends(self, *suffixes: str) -> bool:
        """Whether the name ends so, in whatever case."""
        return self.path.name.lower().endswith(suffixes)

    def holds(self, pattern: str) -> bool:
        """Whether a file in the zip has such a name."""
        return any(re.search(pattern, name) for name in self.members)


Kind = tuple[Callable[[_File], bool], str]
"""Whether a file is one, and what it is with what to do; the first that holds counts."""

# What came in place of a file, whatever its name.
_NOT_THE_FILE: tuple[Kind, ...] = (
    (lambda f: not f.head, "is empty. Copy or download it again"),
    (
        lambda f: f.head.startswith(b"version https://git-lfs"),
        "is a pointer of Git LFS, not the file. Fetch it with `git lfs pull`, or download it",
    ),
    (
        lambda f: f.head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")),
        "is a web page, not the file. Download it again, with a login if its site asks for one",
    ),
)
_KINDS: tuple[Kind, ...] = (
    (lambda f: f.ends(".onnx"), f"is ONNX. {_FOLDED} the checkpoint that it was exported from"),
    (
        lambda f: f.ends(".tflite", ".lite") or f.head[4:8] == b"TFL3",
        f"is TFLite. {_FOLDED} the SavedModel or Keras file that it was converted from",
    ),
    (
        lambda f: f.ends(".json") and _is_tensorflow_js(f.path),
        f"is TensorFlow.js. {_FOLDED} the SavedModel or Keras file that it was converted from",
    ),
    (
        lambda f: f.ends(".pb", ".pbtxt"),
        "is a graph of TensorFlow, frozen perhaps, without variables. Ask its author for the checkpoint, or for the "
        "SavedModel folder (saved_model.pb with variables/)",
    ),
    (
        lambda f: f.ends(".pdparams", ".pdmodel", ".pdiparams"),
        f"is PaddlePaddle's, a pickle that is never loaded. {_NAMED}",
    ),
    (
        lambda f: f.ends(".xml") and b"<net " in f.head,
        f"is OpenVINO's. {_FOLDED} the checkpoint that it was converted from",
    ),
    (
        lambda f: f.ends(".mlmodel", ".engine", ".plan", ".ptl", ".pte", ".mnn", ".param", ".dlc"),
        f"is a model compiled for deployment. {_FOLDED} the checkpoint that it was made from",
    ),
    (lambda f: f.ends(".msgpack", ".npz", ".npy"), f"is a table of arrays (JAX or numpy). {_NAMED}"),
    (
        lambda f: f.holds(r"(^|/)saved_model\.pb$"),
        "is a zip around a SavedModel. Unpack it, and give the folder that holds saved_model.pb",
    ),
    (
        lambda f: f.holds(r"(^|/)(archive_format|serialized_exported_program\.json)$"),
        f"is a program of torch.export. Load it with torch.export.load, and {_STATE}",
    ),
    (
        lambda f: f.holds(rf"({'|'.join(map(re.escape, _WEIGHTS))}|\.index)$"),
        "is a zip around checkpoints. Unpack it, and give the file in it",
    ),
    (
        lambda f: f.head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        f"is a Python pickle, which is never loaded. Where you trust it, load it in its own program, and {_STATE}",
    ),
)


def what_it_is(path: Path) -> str:
    """Return what a path is and what to do, as the rest of a message that begins with it."""
    if not path.exists():
        is_repository = _ADDRESS.match(str(path)) or (len(path.parts) == 2 and not path.parent.exists())
        hint = ". A repository of the Hub is named hf-hub:USER/REPO" if is_repository else ""
        return f"no such file, folder or checkpoint prefix{hint}"
    if path.is_dir():
        return _folder(path)
    found = _File(path, _head(path), _members(path))
    return next((text for is_one, text in _KINDS if is_one(found)), f"not a checkpoint that is known. {_EXPECTED}")


def what_its_name_says(name: str) -> str | None:
    """Return what a file that is not here is, and what to do, where the name alone says it."""
    found = _File(Path(name), b"", ())
    return None if found.ends(".json") else next((text for is_one, text in _KINDS if is_one(found)), None)


def not_the_file(path: Path) -> str | None:
    """Return what a file is that came in place of a checkpoint or is a part of one; None for all others."""
    if not path.is_file():
        return None
    found = _File(path, _head(path), ())
    if (shard := _SHARD.fullmatch(path.name)) and int(shard["count"]) > 1:
        return (
            f"is one of {int(shard['count'])} shards of a checkpoint. Give their index (.index.json) or their folder, "
            "or save it in one file"
        )
    return next((text for is_one, text in _NOT_THE_FILE if is_one(found)), None)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _folder(folder: Path) -> str:
    """Return what a folder holds that could have been given in its place."""
    inner = sorted(path.parent for path in folder.glob("*/saved_model.pb"))
    if inner:
        return f"a folder around {len(inner)} SavedModels. Give the one in it: {first_few(path.name for path in inner)}"
    if (folder / "model.json").is_file() and _is_tensorflow_js(folder / "model.json"):
        return f"holds TensorFlow.js. {_FOLDED} the SavedModel or Keras file that it was converted from"
    if any(folder.glob("*.distcp")):
        return "a sharded checkpoint of torch.distributed. Join it: python -m torch.distributed.checkpoint.format_utils"
    files = [path for path in folder.iterdir() if path.is_file()]
    if shards := [path.name for path in files if _SHARD.fullmatch(path.name)]:
        return (
            f"holds {len(shards)} shards of one checkpoint ({first_few(shards, 2)}) without their index (.index.json). "
            "Copy it there, or save the checkpoint in one file"
        )
    if runs := [path.name for path in folder.glob("checkpoint-*") if path.is_dir()]:
        return f"holds {len(runs)} checkpoints of transformers' Trainer. Give one of these folders: {first_few(runs)}"
    weights = [path.name for path in files if path.name.lower().endswith(_WEIGHTS)]
    if weights:
        return f"a folder with weights in it. Name the file: {first_few(weights)}"
    return f"a folder without a checkpoint that is known. {_EXPECTED}"


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return []


def _is_tensorflow_js(path: Path) -> bool:
    """Whether a JSON file is a model of TensorFlow.js, which has its weights in files beside it."""
    if path.stat().st_size > _MAX_JSON:
        return False
    try:
        model = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(model, dict) and {"modelTopology", "weightsManifest"} <= model.keys()
