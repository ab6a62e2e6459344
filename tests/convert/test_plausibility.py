"""plausibility.py lets pass what was calibrated, and refuses statistics of something else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from timm_effnet_ext.convert.plausibility import IMPLAUSIBLE, by_photos
from timm_effnet_ext.convert.verification import Converted
from timm_effnet_ext.errors import VerificationError


def test_plausible_weights_pass_with_their_figure(converted: Converted, photo_folder: Path) -> None:
    (proof,) = by_photos(converted.model, converted.size, photo_folder)
    assert proof.kind == "plausibility"
    assert 0 < proof.figures["median_z"] < IMPLAUSIBLE


def test_statistics_of_something_else_are_refused(converted: Converted, photo_folder: Path) -> None:
    for module in converted.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 100 * module.running_var.sqrt()
    with pytest.raises(VerificationError, match=r"plausibility: median z-score .* \(refused above 20\)"):
        by_photos(converted.model, converted.size, photo_folder)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", [{"mean": (2**70,) * 3}, {"std": (1e-320,) * 3}])
def test_any_number_can_be_computed_with(
    settings: dict[str, tuple[float, ...]], converted: Converted, photo_folder: Path
) -> None:
    converted.model.pretrained_cfg.update(settings)
    with suppress(VerificationError):  # ReLU6 bounds what comes of it, so that it may look plausible
        by_photos(converted.model, converted.size, photo_folder)


def test_without_photos_nothing_is_claimed(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_effnet_ext.predict.photos._PACKAGED_PHOTOS", ())
    assert by_photos(converted.model, converted.size, None) == []
