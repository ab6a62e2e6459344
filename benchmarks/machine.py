"""Where and with what the benchmark runs."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import timm_effnet_ext
from benchmarks.contenders import is_there

_OURS, _PEERS = ("torch", "timm"), ("torchvision", "onnxruntime", "openvino")


def left_out() -> list[str]:
    """Return a line for each peer that is not installed."""
    return [f"{name} is not installed and left out" for name in _PEERS if not is_there(name)]


def machine(device: torch.device) -> dict[str, Any]:
    """Return where and with what the benchmark runs."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: found for name in (*_OURS, *_PEERS) if (found := _version(name))},
        "timm_effnet_ext": timm_effnet_ext.__version__,  # which may run without being installed
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
