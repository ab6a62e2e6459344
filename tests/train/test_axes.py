"""FLOPs are those of forward and backward, and nothing is computed for them."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.small_models import SMALL
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.axes import count_flops

SIZE = (32, 48)


def count_of(monkeypatch, model):
    """Return the FLOPs of a model that timm has not."""
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: model)
    return count_flops({"model": "x"}, [SIZE])[SIZE]


@pytest.mark.parametrize(
    ("layer", "forward"),
    [
        (nn.Conv2d(3, 6, 3, stride=2, padding=1), 2 * 16 * 24 * 6 * 3 * 9),
        (nn.Conv2d(3, 6, 3, groups=3, padding=1), 2 * 32 * 48 * 6 * 9),  # torch's own rule counts a dense gradient
        (nn.ConvTranspose2d(3, 6, 2, stride=2), 2 * 32 * 48 * 3 * 6 * 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 5)), 2 * 3 * 32 * 48 * 5),
    ],
)
def test_a_layer_of_weights_on_images_has_one_forward_and_one_backward(monkeypatch, layer, forward):
    assert count_of(monkeypatch, layer.to("meta")) == 2 * forward  # images have no gradient


def test_a_layer_behind_another_has_a_backward_for_its_input_too(monkeypatch):
    first, second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
    pixels = SIZE[0] * SIZE[1]
    assert count_of(monkeypatch, nn.Sequential(first, second).to("meta")) == pixels * 2 * (2 * 12 + 3 * 20)


@pytest.mark.parametrize("name", ["hucorz_efficientnetv2_b0", "hucorz_efficientnet_cc_b0_4e", "tf_efficientnet_b0"])
def test_a_step_takes_three_times_the_forward_pass_but_for_the_gradient_of_images(name):
    model = timm.create_model(name, num_classes=4).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 64))
    found = count_flops({"model": name, "num_classes": 4, "model_kwargs": None}, [(64, 64)])[64, 64]
    assert 2.9 < found / counter.get_total_flops() < 3


def test_what_is_frozen_has_no_backward():
    args = {"model": "hucorz_efficientnet_b0", "num_classes": 4}
    whole, probe = (
        count_flops({**args, "model_kwargs": {**SMALL, **more}}, [SIZE])[SIZE] for more in ({}, {"linear_probe": True})
    )
    assert 0.3 < probe / whole < 0.35


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"model": "hucorz_nothing"}, r"FLOPs of hucorz_nothing cannot be counted: Unknown model \(hucorz_nothing\)"),
        ({"model": "vit_tiny_patch16_224"}, "FLOPs of vit_tiny_patch16_224 cannot be counted: Input height"),
        ({"model": "hucorz_efficientnet_b0", "model_kwargs": {"pretrained": True}}, "multiple values"),
        ({}, "FLOPs of None cannot be counted: 'model'"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_one_line(args, message):
    with pytest.raises(EffNetExtError, match=message) as caught:
        count_flops(args, [SIZE])
    assert "\n" not in str(caught.value)


def test_sizes_that_a_damaged_record_may_have_are_refused():
    with pytest.raises(EffNetExtError, match="cannot be counted"):
        count_flops({"model": "hucorz_efficientnet_b0"}, [(10**12, 10**12)])
