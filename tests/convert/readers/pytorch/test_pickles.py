"""Pickles are loaded as weights alone: numpy's numbers pass, TorchScript gives its tensors, all else is named."""

from __future__ import annotations

import datetime
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from timm_effnet_ext.convert.readers.pytorch.pickles import load_pickle
from timm_effnet_ext.errors import CheckpointFormatError


class Small(nn.Module):
    """A module with parameters, buffers, a list, and a method that saves its state in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.layers = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))
        self.sizes: list[int] = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.conv(x)) * self.sizes[0]


HISTORY: dict[str, Any] = {
    "best": np.float64(0.9), "epoch": np.int64(3), "loss": np.array([1.0, 0.5], np.float32), "flag": np.bool_(True),
    "names": np.array(["a", "b"]), "half": np.float16(1.5), "matrix": np.eye(2, dtype=np.int32),
    "objects": np.array(["a", "bc"], object), "dtype": np.dtype("f4"), "text": np.str_("x"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [True, False], ids=["zip", "legacy"])
def test_numpys_numbers_and_arrays_pass(kind: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, **HISTORY}, path, _use_new_zipfile_serialization=kind)
    found, form = load_pickle(path, crc=True)
    assert form == "PyTorch pickle"
    for name, value in HISTORY.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_a_torchscript_archive_gives_its_tensors(kind: str, tmp_path: Path) -> None:
    model = Small().eval()
    scripted = torch.jit.script(model) if kind == "script" else torch.jit.trace(model, torch.ones(1, 3, 8, 8))
    scripted.save(tmp_path / "model.pt")
    found, form = load_pickle(tmp_path / "model.pt", crc=True)
    assert form == "TorchScript archive"
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_a_frozen_torchscript_archive_has_no_names(tmp_path: Path) -> None:
    torch.jit.freeze(torch.jit.script(Small().eval())).save(tmp_path / "model.pt")
    with pytest.raises(CheckpointFormatError, match="a frozen TorchScript archive, whose weights have no names"):
        load_pickle(tmp_path / "model.pt", crc=True)


class _Harmful(nn.Module):
    """A module whose archive runs code of its own when torch loads it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> int:
        return 0

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        raise RuntimeError("code of the archive was run")


def test_no_code_of_a_torchscript_archive_is_run(tmp_path: Path) -> None:
    model = Small()
    model.layers.append(_Harmful())
    torch.jit.script(model).save(tmp_path / "model.pt")
    with pytest.raises(torch.jit.Error, match="code of the archive was run"):
        torch.jit.load(tmp_path / "model.pt")
    found, _ = load_pickle(tmp_path / "model.pt", crc=True)
    assert found.keys() == model.state_dict().keys()


def test_a_compressed_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.script(Small()).save(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as stored, zipfile.ZipFile(tmp_path / "b.pt", "w", 8) as out:
        for name in stored.namelist():
            out.writestr(name, stored.read(name))
    with pytest.raises(CheckpointFormatError, match="is compressed, which torch never does: refused"):
        load_pickle(tmp_path / "b.pt", crc=True)


@pytest.mark.parametrize("kind", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Small(), r"a whole pickled model\? .*Small|holds other Python objects than tensors: .*Small"),
        ({"state_dict": {}, "path": Path("x")}, r"holds other Python objects than tensors: pathlib\.\w+"),
        ({"state_dict": OrderedDict(), "when": datetime.date(2026, 1, 1)}, r"datetime\.date"),
    ],
)
def test_a_refusal_names_the_class_and_gives_no_advice_to_load_it(
    value: Any, message: str, kind: bool, tmp_path: Path
) -> None:
    torch.save(value, tmp_path / "model.pth", _use_new_zipfile_serialization=kind)
    with pytest.raises(CheckpointFormatError, match=message) as refusal:
        load_pickle(tmp_path / "model.pth", crc=True)
    assert "weights_only" not in str(refusal.value)
    assert str(refusal.value).isprintable()
