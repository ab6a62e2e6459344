"""cam.py finds planted evidence, and lays it where the model's input was taken from the photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from tests.closeness import FLOAT32, assert_close
from tests.small_models import SMALL, calibrated, create, images
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.predict.cam import UNSEEN, grad_cam, overlay, save_picture, view_box


class BrightnessModel(nn.Module):
    """Features are the brightness of 8 x 8 patches; class 0 is for it, class 1 against it."""

    def forward_features(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x.mean(1, keepdim=True), 8)

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * torch.tensor([1.0, -1.0])


def test_evidence_in_one_corner_lights_that_corner() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., :8, 24:] = 1
    expected = np.zeros((4, 4))
    expected[0, 3] = 1
    np.testing.assert_array_equal(grad_cam(BrightnessModel(), image, 0), expected)


def test_evidence_against_a_class_lights_nothing() -> None:
    assert not grad_cam(BrightnessModel(), torch.rand(1, 3, 32, 32), 1).any()


def test_it_is_the_class_activation_map_of_a_pooled_linear_classifier() -> None:
    """For average pooling and one linear layer Grad-CAM equals CAM: the classifier's weights times the features."""
    model = calibrated(create("hucorz_efficientnet_lite0", num_classes=7, **SMALL))
    image = images(96, batch=1)
    with torch.no_grad():
        features = model.forward_features(image)[0]
        cam = torch.einsum("c,chw->hw", model.classifier.weight[3], features).relu()
    assert cam.max() > 0
    assert_close(grad_cam(model, image, 3), cam / cam.max(), FLOAT32)


def test_a_transformer_has_no_map() -> None:
    model = BrightnessModel()
    model.forward_features = lambda x: x.flatten(2)  # type: ignore[method-assign]
    with pytest.raises(EffNetExtError, match=r"a CAM needs features \(B, C, H, W\), this model has \(1, 3, 64\)"):
        grad_cam(model, torch.zeros(1, 3, 8, 8), 0)


CONFIGS: list[dict[str, Any]] = [
    {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center"},
    {"input_size": (3, 300, 300), "crop_pct": 1.0, "crop_mode": "center"},
    {"input_size": (3, 480, 480), "crop_pct": 1.0, "crop_mode": "squash"},
    {"input_size": (3, 300, 300), "crop_pct": 0.9, "crop_mode": "squash"},
    {"input_size": (3, 192, 320), "crop_pct": 0.8, "crop_mode": "center"},
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300), (1501, 97)])
def test_the_box_is_what_timms_transform_cuts_out(config: dict[str, Any], size: tuple[int, int]) -> None:
    """The red and green of the photo are its coordinates, so the model's input says where it comes from."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    photo = Image.fromarray((np.stack([x, y, 0 * x], 2) * 255).round().astype(np.uint8))
    seen = create_transform(**config, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))(photo).numpy()
    middle = seen[0, seen.shape[1] // 2], seen[1, :, seen.shape[2] // 2]
    left, top, right, bottom = view_box(size, config)
    for (first, *_, last), begin, end, side in zip(middle, (left, top), (right, bottom), size, strict=True):
        # 8-bit coordinates, half a pixel of the input at each end, and the rounding of resize and crop
        atol = 1.5 / 255 + 1.5 / min(size[0], size[1], *config["input_size"][1:]) * min(size) / side
        assert first == pytest.approx(begin / side, abs=atol)
        assert last == pytest.approx(end / side, abs=atol)


def test_a_border_around_the_photo_is_refused() -> None:
    with pytest.raises(EffNetExtError, match="crop mode 'border'"):
        view_box((10, 10), {"input_size": (3, 8, 8), "crop_pct": 1.0, "crop_mode": "border"})


def test_the_overlay_colours_the_evidence_and_darkens_the_unseen() -> None:
    photo = Image.new("RGB", (100, 60), (200, 200, 200))
    evidence = np.zeros((4, 4), np.float32)
    evidence[0, 0] = 1
    picture = np.asarray(overlay(photo, evidence, (20, 0, 80, 60)), dtype=int)
    assert picture.shape == (60, 100, 3)
    assert (picture[:, :20] == int(200 * UNSEEN)).all()
    assert (picture[:, 80:] == int(200 * UNSEEN)).all()
    assert (picture[45:, 50:80] == 200).all()
    hottest = picture[3, 23]
    assert hottest[0] > hottest[1] + 50
    assert hottest[0] > hottest[2] + 50


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "cam.jpg"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="cannot write mode RGBA as JPEG"):
        save_picture(Image.new("RGBA", (4, 4)), target)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("cam.jpg", b"old")]
