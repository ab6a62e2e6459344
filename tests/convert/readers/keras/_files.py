"""The real Keras files of tests/data/keras, unpacked, and what is done with them in several tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import timm_effnet_ext  # noqa: F401  registers the models
from tests.archives import unpack_archives
from tests.convert._sources import said
from timm_effnet_ext.arch.rows import PREFIX
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.convert.selection import readings

ARCHIVES = Path(__file__).parents[3] / "data" / "keras"
# TensorFlow's own engines differ among each other by up to 2e-5 of the largest logit; a mistake shows at 1e-2.
TOLERANCE = 1e-4


def folder() -> Path:
    """Return where the files lie."""
    return unpack_archives(ARCHIVES)


def outputs(file: str, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (B, H, W, C) of 0 … 255 and Keras' outputs for them."""
    stem = file.partition(".")[0].removesuffix("_weights")
    with np.load(folder() / f"{stem}.npz") as saved:
        return saved[f"images_{which}"].astype(np.float32), saved[f"logits_{which}"]


def candidate(checkpoint: Checkpoint) -> Candidate:
    """Return the first reading of a checkpoint, after checking that it accounts for everything."""
    found = readings(checkpoint)[0]
    shapes = {name: entry.shape for name, entry in checkpoint.variables.model.items() if not found.is_spare(name)}
    assert {entry.source: entry.source_shape for entry in found.plan()} == shapes
    return found


def converted(checkpoint: Checkpoint) -> torch.nn.Module:
    """Return our model with the checkpoint's weights."""
    found = candidate(checkpoint)
    args: dict[str, Any] = {**found.match._asdict(), **said(checkpoint, "model_args")}
    assert args.pop("head")
    model = timm.create_model(PREFIX + args.pop("arch_name"), **args).eval()
    variables = checkpoint.variables.model
    values = {entry.torch: entry.layout.apply(variables[entry.source].read()) for entry in found.plan()}
    state = {name: torch.from_numpy(np.array(array)) for name, array in values.items()}
    model.load_state_dict(state | {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")})
    return model


def logits(model: torch.nn.Module, images: np.ndarray, preprocessing: Any) -> np.ndarray:
    """Return what our model makes of images of 0 … 255."""
    mean, std = (np.float32(preprocessing[key]) for key in ("mean", "std"))
    x = torch.from_numpy((images / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return model(x).numpy()


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference, relative to the largest output where that is above 1."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
