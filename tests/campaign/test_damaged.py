"""Damaged files of every kind: one line and nothing written, or the right result, and soon."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.campaign.conduct import Answer, BeginPart, Campaign, answer
from tests.campaign.inputs import INPUTS, Input
from timm_effnet_ext.convert.pipeline import WEIGHTS_FILE

SAMPLE = 100  # of so many cases `make test` tries one


@pytest.mark.parametrize("kind", INPUTS, ids=lambda kind: kind.name)
def test_damaged(
    kind: Input,
    campaign: Campaign,
    part: BeginPart,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("path", "argv"):  # the launcher makes them its program's
        monkeypatch.setattr(sys, name, [*getattr(sys, name)])
    source, written = kind.make(tmp_path / "source"), tmp_path / "written"
    written.mkdir()
    raw, command = source.read_bytes(), kind.command(source, written / "out")
    with part(kind.name, kind.right) as found:
        whole = answer(command, capfd)
        assert whole.problem is None
        expected = _weights(written)
        for case in campaign.cases(kind.cases, kind.cases // SAMPLE):
            _empty(written)
            source.write_bytes(kind.damage(raw, campaign.rng(kind.name, case)))
            told = answer(command, capfd)
            problem = told.problem or _what_is_wrong(told, written, expected, kind.differing)
            found.count(case, bool(told.code), problem)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights that a conversion wrote, none where it was another command."""
    return {name: array for file in folder.glob(f"*/{WEIGHTS_FILE}") for name, array in load_file(file).items()}


def _what_is_wrong(told: Answer, written: Path, expected: dict[str, np.ndarray], differing: int | None) -> str | None:
    """Return what is half or wrong about what a command left behind."""
    if told.code:
        left = [path.name for path in written.iterdir()]
        return f"refused, yet wrote {left}" if left else None
    weights = _weights(written)
    if {name: array.shape for name, array in weights.items()} != {n: array.shape for n, array in expected.items()}:
        return "accepted as another model"
    others = sum(int((array != expected[name]).sum()) for name, array in weights.items())
    return None if differing is None or others <= differing else f"accepted, yet {others} weights are others"
