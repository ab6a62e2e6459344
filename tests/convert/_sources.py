"""Small checkpoints of every dialect, made without TensorFlow, and the models that they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests._bundle_writer import write_bundle
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.dialects.dialect import Dialect, plan
from timm_effnet_ext.convert.dialects.tensorflow import TF1
from timm_effnet_ext.convert.selection import readings

EMA = "/ExponentialMovingAverage"
TINY: dict[str, Any] = {"num_classes": 5, "width_mult": 0.04, "depth_mult": 0.2}
DATA = Path(__file__).parents[1] / "data" / "tf"


def tiny_variables(
    arch: str = "efficientnetv2_b0",
    dialect: Dialect = TF1,
    prefix: str = "efficientnetv2-b0/",
    seed: int = 0,
    **scale: Any,
) -> dict[str, np.ndarray]:
    """Return source name -> values of a scaled-down network; variances are positive."""
    rng = np.random.default_rng(seed)
    values = {}
    for entry in plan(ARCHS[arch], dialect, prefix=prefix, **{**TINY, **scale}):
        drawn = rng.standard_normal(entry.source_shape).astype(np.float32)
        values[entry.source] = np.abs(drawn) + 0.5 if entry.torch.endswith("running_var") else drawn
    return values


def with_ema(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables, a twin of each that is its half, RMSProp slots of what is trained, and a step."""
    twins = {f"{name}{EMA}": value / 2 for name, value in values.items()}
    slots = {
        f"{name}/RMSProp{number}": np.ones_like(value)
        for name, value in values.items() if "moving" not in name for number in ("", "_1")
    }  # fmt: skip
    return {**values, **twins, **slots, "global_step": np.array(7, np.int64)}


def said(checkpoint: Checkpoint, what: str) -> dict[str, Any]:
    """Return the `preprocessing` or the `model_args` of a checkpoint, of two statements the first; habits come last."""
    found = readings(checkpoint)[0].match
    statements = (*checkpoint.statements, *checkpoint.habits(ARCHS[found.arch_name], found.num_classes))
    return {name: value for one in reversed(statements) for name, value in getattr(one, what).items()}


def tiny_bundle(folder: Path, values: Mapping[str, np.ndarray] | None = None, **options: Any) -> Path:
    """Write a bundle of a tiny network and return its prefix."""
    return write_bundle(folder / "model.ckpt-7", tiny_variables() if values is None else values, **options)
