"""Sources on a local Hub, for the tests of what comes of them and of what keeps them away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hub_server import LocalHub
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options, Report

REPO, SOURCE = "alice/net", "hf-hub:alice/net"
Files = Mapping[str, bytes | Path]
# What lies beside weights, and nobody reads.
BESIDE: Files = dict.fromkeys(
    (
        ".gitattributes", "README.md", "photo.png", "optimizer.pt", "scheduler.pt", "rng_state.pth",
        "training_args.bin", "model.onnx", "onnx/model.onnx", "model.tflite", "flax_model.msgpack",
        "runs/events.out.tfevents.1", "openvino_model.bin",
    ),
    b"nobody reads this",
)  # fmt: skip


def converted(source: str, out: Path, **options: Any) -> Report:
    return convert(source, out, Options(verify=False, overwrite=True, **options))


def asked_for(hub: LocalHub) -> set[str]:
    """Return the files that a Hub was asked for."""
    return {request.split("/resolve/")[1].partition("/")[2] for request in hub.requests if "/resolve/" in request}


def under(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Return the files of a folder by their paths in it, below `prefix`."""
    return {prefix + path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def flipped(raw: bytes) -> bytes:
    """Return the same with another last bit."""
    return raw[:-1] + bytes([raw[-1] ^ 1])
