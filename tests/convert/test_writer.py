"""writer.py: tensors arrive in safetensors as they are, one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from timm_effnet_ext.convert.writer import Slot, write_safetensors
from timm_effnet_ext.errors import CheckpointFormatError


def _slot(name: str, values: np.ndarray, dtype: str = "F32") -> Slot:
    return Slot(name, dtype, values.shape, lambda: values)


@pytest.mark.parametrize("perm", [(0, 1, 2, 3), (3, 2, 0, 1), (2, 3, 0, 1), (3, 1, 2, 0)])
def test_any_view_is_written_by_its_elements_not_by_its_bytes(perm: tuple[int, ...], tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5).transpose(perm)
    write_safetensors(tmp_path / "f", [_slot("a", values)])
    assert np.array_equal(load_file(tmp_path / "f")["a"], values)


@pytest.mark.parametrize(
    "values", [np.zeros((), "i8"), np.zeros((0, 3), "f4"), np.ones(1, ">f4"), np.ones(4, "f8")[::2]]
)
def test_scalars_empty_and_foreign_arrays_arrive(values: np.ndarray, tmp_path: Path) -> None:
    slots = [_slot("before", np.ones(3, "f4")), _slot("x", values, "I64" if values.dtype.kind == "i" else "F32")]
    write_safetensors(tmp_path / "f", slots)
    assert np.array_equal(load_file(tmp_path / "f")["x"], values)


def test_what_reads_otherwise_than_it_was_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = iter(range(9))
    monkeypatch.setattr("google_crc32c.value", lambda data: next(sums))
    with pytest.raises(CheckpointFormatError, match="reads otherwise than it was written"):
        write_safetensors(tmp_path / "f", [_slot("a", np.ones(3, "f4"))])


def test_one_tensor_at_a_time_is_asked_for(tmp_path: Path) -> None:
    alive: list[str] = []

    def load(name: str) -> np.ndarray:
        alive.append(name)
        return np.ones(2, "f4")

    slots = [Slot(name, "F32", (2,), lambda name=name: load(name)) for name in "abc"]

    told: list[tuple[int, int, int]] = []
    write_safetensors(tmp_path / "f", slots, tell=lambda done, total: told.append((len(alive), done, total)))
    assert told == [(n, 8 * n, 24) for n in range(4)]


def test_another_shape_than_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match=r"a: shape \(2,\), expected \(3,\)"):
        write_safetensors(tmp_path / "f", [Slot("a", "F32", (3,), lambda: np.ones(2, "f4"))])
