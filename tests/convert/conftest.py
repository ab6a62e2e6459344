"""A converted folder and a few photos, for all that runs what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.convert._sources import DATA, TINY
from tests.weights.test_hub_loading import hub_files
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.convert.verification import Converted


@pytest.fixture(scope="session")
def lite0_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a conversion of Google's Lite0, scaled down, wrote."""
    out = tmp_path_factory.mktemp("lite0") / "out"
    convert(DATA / "tpu_lite0", out, Options(verify=False))
    return out


@pytest.fixture
def converted(lite0_folder: Path) -> Converted:
    """That folder as timm builds it."""
    return Converted.load(lite0_folder)


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A folder of two photos of noise, and a file that is none."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


@pytest.fixture(scope="module")
def hub_folder() -> dict[str, bytes]:
    """A tiny model in timm's Hub format."""
    torch.manual_seed(0)
    model = timm.create_model("hucorz_efficientnetv2_b0", **TINY)
    return hub_files(model, architecture="hucorz_efficientnetv2_b0", model_args={"width_mult": 0.04, "depth_mult": 0.2})
