"""Where the weights come from that timm hands us, and what the config.json beside them says."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.hub_errors import HUB_ERRORS


def name_of_source(cfg: Mapping[str, Any]) -> str:
    """Return what errors call the source of a pretrained cfg."""
    if cfg.get("state_dict"):
        return "state_dict"
    return str(cfg.get("file") or cfg.get("hf_hub_id") or cfg.get("url") or "weights")


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
        repo, _, revision = cfg["hf_hub_id"].partition("@")
        where: Any = {"revision": revision or None, "cache_dir": argument_of_caller("load_pretrained", "cache_dir")}
        # The cache knows the commit that the weights have just come from: whether it has a config need not be asked
        # twice, least of all of a Hub that is down, for which the client would wait half a minute.
        path = try_to_load_from_cache(repo, "config.json", **where)
        if path is not None and not isinstance(path, str):
            return None  # known not to be there
        try:
            return _read_config(Path(path or hf_hub_download(repo, "config.json", **where)))
        except (EntryNotFoundError, *HUB_ERRORS):
            return None  # the weights were had: a repository without config.json
    return None


def config_beside(weights: Path) -> dict[str, Any] | None:
    """Return the config.json in the folder of a weight file, or None."""
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    return _read_config(path) if path.is_file() else None


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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointFormatError(f"{path}: not readable as JSON ({err})") from err
    if not isinstance(config, dict):
        raise CheckpointFormatError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config
