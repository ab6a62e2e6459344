"""Where weights come from: whether they can be had and opened, and which model they say that they are of."""

from __future__ import annotations

import argparse
import pickle
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from timm.models import load_state_dict

from timm_effnet_ext.arch.names import read_name
from timm_effnet_ext.errors import CheckpointFormatError, first_few, first_line, located
from timm_effnet_ext.files.hub import HUB_ERRORS, check_hash, hub_explained
from timm_effnet_ext.files.hub_format import CONFIG_FILE, WEIGHT_FILES, read_object
from timm_effnet_ext.hosts import argument_of_timm, is_damaged_archive, refused_objects

_ARCHIVE = b"PK\x03\x04"
_STARTED = time.time()  # before anything was downloaded
# Under which keys timm looks for the weights: timm/models/_helpers.py `load_state_dict`.
_STATES = ("state_dict_ema", "model_ema", "state_dict", "model")


class Statement(NamedTuple):
    """A model that is named, the arguments with which it was made, and its cfg."""

    source: str  # who says so, as errors call it
    architecture: str
    model_args: Mapping[str, Any]
    cfg: Mapping[str, Any] = {}  # how images are prepared for it


def check_readable_checkpoint() -> None:
    """Open the file of `create_model(checkpoint_path=…)`, if that is what is calling.

    timm reads it once the model is made, and what it raises then goes past us. The values are not read for this.
    """
    path = argument_of_timm("create_model", "checkpoint_path")
    if path is None or not Path(path).is_file():
        return
    with explain_load_errors(str(path)):
        if str(path).endswith(".safetensors"):
            with safe_open(path, framework="pt"):
                pass
        else:
            _open_pickle(str(path))


def _open_pickle(path: str) -> None:
    """Rebuild what timm would load, but for the values: they stay in the file, if it is an archive as torch writes it.

    A file of torch before 1.6 is none, and is read; so is one that torch refuses, for timm's words of that.
    """
    try:
        load_plain(Path(path))
    except pickle.UnpicklingError:
        load_state_dict(path)
    if _is_archive(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                archive.open(name).close()  # what stands before the values is whole


def load_plain(path: Path) -> Any:
    """Return what a file of `torch.save` holds, as timm loads it; values stay in an archive, as torch writes it."""
    with torch.serialization.safe_globals([argparse.Namespace]):  # train.py's files hold one, and timm allows it
        return torch.load(path, weights_only=True, mmap=_is_archive(path))


def _is_archive(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_ARCHIVE)) == _ARCHIVE


@contextmanager
def explain_load_errors(model_name: str) -> Iterator[None]:
    """Turn the errors of safetensors, torch and the Hub client into one line that says what to do."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, UnicodeDecodeError) as err:
        said = first_line(err)
        raise CheckpointFormatError(f"{model_name}: the weight file is cut or is no weight file ({said})") from err
    except RuntimeError as err:
        if is_damaged_archive(err):
            raise CheckpointFormatError(f"{model_name}: the weight file is cut or damaged ({first_line(err)})") from err
        refused = refused_objects(err)
        if refused is None:
            raise
        held = first_few(refused, 2) if refused else "other Python objects"
        raise CheckpointFormatError(
            f"{model_name}: the weight file is no plain state_dict: it is foreign, damaged, or holds {held}, which "
            "are never loaded. Save model.state_dict(), or convert it: python -m timm_effnet_ext convert FILE "
            "-o FOLDER"
        ) from err
    except Exception:  # perhaps the Hub's
        with hub_explained(model_name):
            raise


def name_source(cfg: Mapping[str, Any]) -> str:
    """Return what errors call the source of a pretrained cfg."""
    if cfg.get("state_dict"):
        return "state_dict"
    return str(cfg.get("file") or cfg.get("hf_hub_id") or cfg.get("url") or "weights")


def check_download(cfg: Mapping[str, Any], where: str, cache_dir: Any) -> None:
    """Raise unless weights that this process has downloaded have the sha256 that the Hub announced.

    `cache_dir` is what timm was given for its cache, if anything.

    Raises:
        CheckpointFormatError: They have another one, and are gone from the cache.
    """
    repo, place = _in_cache(cfg, cache_dir)
    for name in WEIGHT_FILES:
        link = try_to_load_from_cache(repo, name, **place)
        if isinstance(link, str) and Path(link).stat().st_mtime >= _STARTED:
            with located(where):
                check_hash(Path(link), name)


def read_source_config(cfg: Mapping[str, Any], cache_dir: Any = None, *, may_ask: bool = True) -> dict[str, Any] | None:
    """Return the config.json that lies beside the weights of a pretrained cfg, or None.

    With `may_ask` the Hub is asked for it; else it is there where its weights have been loaded from there.

    Raises:
        CheckpointFormatError: It is damaged.
    """
    if cfg.get("state_dict"):
        return None
    if cfg.get("file"):
        return read_config_beside(Path(cfg["file"]))
    if cfg.get("hf_hub_id"):
        repo, where = _in_cache(cfg, cache_dir)
        # The cache knows the commit that the weights have just come from: whether it has a config need not be asked
        # twice, least of all of a Hub that is down, for which the client would wait half a minute.
        path = try_to_load_from_cache(repo, CONFIG_FILE, **where)
        if not isinstance(path, str) and (path is not None or not may_ask):
            return None  # known not to be there
        try:
            return read_object(Path(path or hf_hub_download(repo, CONFIG_FILE, **where)))
        except (EntryNotFoundError, *HUB_ERRORS):
            return None  # the weights were had: a repository without config.json
    return None


def read_config_beside(weights: Path) -> dict[str, Any] | None:
    """Return the config.json in the folder of a weight file, or None."""
    path = (weights if weights.is_dir() else weights.parent) / CONFIG_FILE
    return read_object(path) if path.is_file() else None


def said_by_source(cfg: Mapping[str, Any], cache_dir: Any = None) -> Statement | None:
    """Return what the weights of a pretrained cfg say; `cache_dir` is what timm was given for the Hub's cache."""
    if cfg.get("state_dict"):
        return said_by_state(cfg["state_dict"])
    return said_by_file(Path(cfg["file"])) if cfg.get("file") else _beside(read_source_config(cfg, cache_dir))


def said_by_state(state: Any) -> Statement | None:
    """Return what a state_dict says of this package's model in its metadata, which torch keeps beside the tensors."""
    tables = _mapping(getattr(state, "_metadata", None)).values()
    return next(filter(None, (_statement("its metadata", table, "preprocessing") for table in tables)), None)


def said_by_file(path: Path) -> Statement | None:
    """Return what the config.json beside a weight file says, else what is inside: metadata, or train.py's arguments."""
    beside = _beside(read_config_beside(path))
    if beside is not None or path.suffix == ".safetensors":
        return beside
    loaded = load_plain(path)
    if not isinstance(loaded, Mapping):
        return None
    states = (said_by_state(state) for state in (*map(loaded.get, _STATES), loaded))
    return next(filter(None, states), None) or _of_run(loaded)


def _beside(config: Any) -> Statement | None:
    return _statement("its config.json", config, "pretrained_cfg")


def _statement(source: str, table: Any, cfg: str) -> Statement | None:
    name, *rest = (_mapping(table).get(key) for key in ("architecture", "model_args", cfg))
    return Statement(source, name, *map(_mapping, rest)) if isinstance(name, str) else None


def _of_run(loaded: Mapping[str, Any]) -> Statement | None:
    """Return what train.py wrote of its run: the model's name, unless that is a folder's, and its arguments."""
    arch, args = loaded.get("arch"), loaded.get("args")
    if not isinstance(arch, str) or read_name(arch) is None:
        return None
    options = vars(args) if isinstance(args, argparse.Namespace) else {}
    given = {"bn_eps": options.get("bn_eps"), **_mapping(options.get("model_kwargs"))}
    return Statement("its arch", arch, {name: value for name, value in given.items() if value is not None})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _in_cache(cfg: Mapping[str, Any], cache_dir: Any) -> tuple[str, dict[str, Any]]:
    """Return the repository of a cfg, and where the client's functions find it."""
    repo, _, revision = cfg["hf_hub_id"].partition("@")
    return repo, {"revision": revision or None, "cache_dir": cache_dir}
