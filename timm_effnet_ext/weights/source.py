"""Where the weights come from that timm hands us, and what the config.json beside them says."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.files.hub_errors import HUB_ERRORS
from timm_effnet_ext.files.hub_format import CONFIG_FILE, WEIGHT_FILES, read_config
from timm_effnet_ext.files.storage import sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")
_STARTED = time.time()  # before anything was downloaded


def name_of_source(cfg: Mapping[str, Any]) -> str:
    """Return what errors call the source of a pretrained cfg."""
    if cfg.get("state_dict"):
        return "state_dict"
    return str(cfg.get("file") or cfg.get("hf_hub_id") or cfg.get("url") or "weights")


def check_download(cfg: Mapping[str, Any], where: str) -> None:
    """Raise unless weights that this process has downloaded have the sha256 that the Hub announced.

    The Hub's client compares the length only. It names a large file in its cache after its sha256.

    Raises:
        CheckpointFormatError: They have another one, and are gone from the cache.
    """
    repo, place = _in_cache(cfg)
    for name in WEIGHT_FILES:
        link = try_to_load_from_cache(repo, name, **place)
        if not isinstance(link, str):
            continue
        path = Path(link).resolve()
        if _SHA256.fullmatch(path.name) and path.stat().st_mtime >= _STARTED and sha256(path) != path.name:
            path.unlink()
            raise CheckpointFormatError(
                f"{where}: {name} arrived with another sha256 than the Hub announced. Try again"
            )


def config_of_source(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config.json that lies beside the weights of a pretrained cfg, or None.

    Raises:
        CheckpointFormatError: It is damaged.
    """
    if cfg.get("state_dict"):
        return None
    if cfg.get("file"):
        return config_beside(Path(cfg["file"]))
    if cfg.get("hf_hub_id"):
        repo, where = _in_cache(cfg)
        # The cache knows the commit that the weights have just come from: whether it has a config need not be asked
        # twice, least of all of a Hub that is down, for which the client would wait half a minute.
        path = try_to_load_from_cache(repo, CONFIG_FILE, **where)
        if path is not None and not isinstance(path, str):
            return None  # known not to be there
        try:
            return read_config(Path(path or hf_hub_download(repo, CONFIG_FILE, **where)))
        except (EntryNotFoundError, *HUB_ERRORS):
            return None  # the weights were had: a repository without config.json
    return None


def config_beside(weights: Path) -> dict[str, Any] | None:
    """Return the config.json in the folder of a weight file, or None."""
    path = (weights if weights.is_dir() else weights.parent) / CONFIG_FILE
    return read_config(path) if path.is_file() else None


def argument_of_caller(function: str, name: str) -> Any:
    """Return the local `name` of timm's `function` that is calling us, or None.

    timm reads `checkpoint_path=` itself and hands us a bare state_dict: this is the only way to know which file it
    came from, hence to name the file in errors and to see the config beside it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__", "").startswith("timm."):
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None


def _in_cache(cfg: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the repository of a cfg, and where the client's functions find it."""
    repo, _, revision = cfg["hf_hub_id"].partition("@")
    return repo, {"revision": revision or None, "cache_dir": argument_of_caller("load_pretrained", "cache_dir")}
