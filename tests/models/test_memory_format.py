"""Training on a CPU is computed in channels_last, whatever format the images have; everything else is left as it is."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.closeness import FLOAT32, assert_each_close
from tests.small_models import SMALL, create
from timm_effnet_ext.arch.rows import PREFIX
from timm_effnet_ext.models.layers import in_fast_format

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
LAST = torch.channels_last


def small(**kwargs: Any) -> Any:
    return create(PREFIX + "efficientnetv2_s", num_classes=5, **SMALL, **kwargs)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("features_only", [False, True])
def test_training_gives_the_same_bits_in_both_formats(lean: bool, features_only: bool) -> None:
    kwargs = {"features_only": True} if features_only else {}
    x = torch.randn(2, 3, 64, 48)
    outputs = []
    for image in (x, x.contiguous(memory_format=LAST)):
        model = small(lean=lean, **kwargs).train()
        result = model(image) if features_only else [model(image)]
        sum(y.square().sum() for y in result).backward()
        outputs.append([*result, *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(outputs[0]) > 20
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert x.is_contiguous()


def test_features_tell_the_format() -> None:
    x = torch.randn(2, 3, 128, 128)
    model = small()
    assert model.train().forward_features(x).is_contiguous(memory_format=LAST)
    assert model.eval().forward_features(x).is_contiguous()
    assert model.eval().forward_features(x.contiguous(memory_format=LAST)).is_contiguous(memory_format=LAST)


def test_gradients_of_each_sample() -> None:
    model = small(norm_layer="groupnorm1").train()
    x = torch.randn(3, 1, 3, 16, 16)
    parameters = dict(model.named_parameters())

    def loss(values: Any, image: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, values, (image,)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="same")(parameters, x)
    alone = torch.func.grad(loss)(parameters, x[1])
    assert_each_close({name: grad[1] for name, grad in grads.items()}, alone, FLOAT32)


@pytest.mark.parametrize(
    ("training", "dtype", "context"),
    [
        (False, torch.float32, nullcontext()),
        (True, torch.float64, nullcontext()),
        (True, torch.bfloat16, nullcontext()),
        (True, torch.float32, torch.autocast("cpu", torch.bfloat16)),
    ],
    ids=["inference", "float64", "bfloat16", "autocast"],
)
def test_what_was_not_found_faster_is_left_alone(training: bool, dtype: torch.dtype, context: Any) -> None:
    image = torch.randn(1, 3, 8, 8, dtype=dtype)
    with context:
        assert in_fast_format(image, training) is image
