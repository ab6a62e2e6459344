"""Damaged files: one error or the right result, soon, whatever byte is wrong; a sample here, thousands under `slow`."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.convert._sources import DATA, tiny_bundle, tiny_variables
from timm_effnet_ext.convert.open import open_checkpoint
from timm_effnet_ext.errors import EffNetExtError

Made = Callable[[Path], Path]
WANTED = (
    "efficientnetv2-b0/stem/conv2d/kernel",
    "efficientnetv2-b0/blocks_3/se/conv2d/bias",
    "efficientnetv2-b0/head/dense/bias",
)


def _variables() -> dict[str, np.ndarray]:
    values = tiny_variables()
    return {name: values[name] for name in WANTED}


def _index(folder: Path) -> Path:
    tiny_bundle(folder, _variables(), slices={WANTED[0]: (3, 2)}, per_block=2)
    return folder / "model.ckpt-7.index"


def _data(folder: Path) -> Path:
    _index(folder)
    return folder / "model.ckpt-7.data-00000-of-00001"


def _archive(folder: Path) -> Path:
    _index(folder / "made")
    with tarfile.open(folder / "a.tgz", "w:gz") as tar:
        tar.add(folder / "made", "efficientnet")
    return folder / "a.tgz"


def _safetensors(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_variables(), folder / "model.safetensors")
    return folder / "model.safetensors"


def _pickle(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: torch.from_numpy(value) for name, value in _variables().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "model.pth")
    return folder / "model.pth"


FORMATS: dict[str, Made] = {
    "index": _index, "data": _data, "archive": _archive, "safetensors": _safetensors, "pickle": _pickle
}  # fmt: skip
# Formats without a checksum of their values: a flipped bit in a weight is another weight.
UNCHECKED = ("safetensors", "pickle")


def _damages(raw: bytes, seed: int, flips: int, cuts: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    for at in np.linspace(0, len(raw) - 1, cuts).astype(int):
        yield raw[:at]
    for _ in range(flips):
        damaged = bytearray(raw)
        for at in rng.integers(0, len(raw), rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        yield bytes(damaged)


def _check(made: Made, name: str, folder: Path, flips: int, cuts: int) -> None:
    source = made(folder)
    raw, expected = source.read_bytes(), _variables()
    for damaged in _damages(raw, 0, flips, cuts):
        source.write_bytes(damaged)
        found = _read(source)
        if isinstance(found, str):
            assert source.name.split(".")[0] in found  # the file that is damaged, or its other half
        elif name not in UNCHECKED:
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[key], value) for key, value in expected.items())


def _read(source: Path) -> dict[str, np.ndarray] | str:
    """Return the values, or the error."""
    try:
        with open_checkpoint(source) as checkpoint:
            return {key: entry.read() for key, entry in checkpoint.variables.model.items()}
    except EffNetExtError as err:
        return str(err)


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_of_damaged_files(name: str, tmp_path: Path) -> None:
    _check(FORMATS[name], name, tmp_path, flips=60, cuts=40)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands_of_damaged_files(name: str, tmp_path: Path) -> None:
    size = FORMATS[name](tmp_path / "size").stat().st_size
    _check(FORMATS[name], name, tmp_path, flips=3000, cuts=min(size, 3000))


@pytest.mark.parametrize("folder", ["object", "saved_model/variables"])
def test_a_sample_of_damaged_object_graphs(folder: str, tmp_path: Path) -> None:
    for path in (DATA / "automl_v2_b0_tf2" / folder).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = next(tmp_path.glob("*.index"))
    data = next(tmp_path.glob("*.data-*"))
    for path in (index, data):
        raw = path.read_bytes()
        for damaged in _damages(raw, 1, 30, 10):
            path.write_bytes(damaged)
            try:
                with open_checkpoint(index) as checkpoint:
                    assert checkpoint.variables.model
            except EffNetExtError:
                pass
        path.write_bytes(raw)
