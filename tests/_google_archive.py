"""Archives laid out as Google's are, of small networks: `NAME/checkpoint`, `NAME/model.ckpt.index` and its data."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from tests._bundle_writer import write_bundle
from tests.small_models import SMALL
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.dialects.dialect import plan
from timm_effnet_ext.convert.dialects.tensorflow import TF1

EMA = "/ExponentialMovingAverage"


def variables(arch: str = "efficientnet_b0", num_classes: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Return raw and EMA variables, scaled so that activations stay near 1 and BN statistics describe them roughly."""
    random = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for entry in plan(ARCHS[arch], TF1, prefix=f"{arch.replace('_', '-')}/", num_classes=num_classes, **SMALL):
        for twin in ("", EMA):
            found[entry.source + twin] = _values(entry.torch, entry.source_shape, random)
    found["global_step"] = np.array(1000, "<i8")
    return found


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if name.endswith("running_var"):
        values = random.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = random.normal(float(name.endswith("weight")), 0.1, shape)
    else:
        fan_in = shape[0] * shape[1] if "conv_dw" in name else np.prod(shape[:-1])
        values = random.normal(0, fan_in**-0.5, shape)
    return values.astype("<f4")


def archive(found: dict[str, np.ndarray], name: str = "efficientnet-b0") -> bytes:
    """Return a .tar.gz of a checkpoint with these variables."""
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder, name, "model.ckpt"), found)
        Path(folder, name, "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
            tar.add(Path(folder, name), name)
    return out.getvalue()
