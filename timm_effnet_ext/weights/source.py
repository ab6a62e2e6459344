"""Where the weights come from that timm hands us, and what the config.json beside them says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from timm_effnet_ext.errors import located
from timm_effnet_ext.files.hub import HUB_ERRORS, check_hash
from timm_effnet_ext.files.hub_format import CONFIG_FILE, WEIGHT_FILES, read_object

_STARTED = time.time()  # before anything was downloaded


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


def _in_cache(cfg: Mapping[str, Any], cache_dir: Any) -> tuple[str, dict[str, Any]]:
    """Return the repository of a cfg, and where the client's functions find it."""
    repo, _, revision = cfg["hf_hub_id"].partition("@")
    return repo, {"revision": revision or None, "cache_dir": cache_dir}
