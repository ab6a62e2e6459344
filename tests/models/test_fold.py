"""optimize_for_inference computes what the model computes, and leaves the model alone."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d, freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.utils import prune

import timm_effnet_ext
from tests.closeness import FLOAT32, assert_close
from tests.small_models import SMALL, calibrated, create, images
from timm_effnet_ext import optimize_for_inference
from timm_effnet_ext.arch.rows import ARCHS, PREFIX


def trained(name: str = "efficientnet_b0", **kwargs: Any) -> Any:
    """Return a model whose norms hold what training leaves: no statistic is 0 or 1."""
    model: Any = create(PREFIX + name, **{**SMALL, "num_classes": 5, **kwargs})
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, 0, 0.1)
    return calibrated(model, 64)


def norms_left(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "Norm" in type(module).__name__]


@pytest.mark.parametrize("name", ARCHS)
def test_every_arch_computes_the_same_without_norms(name: str) -> None:
    model = trained(name)
    folded = optimize_for_inference(model)
    assert_close(folded(images(64, 47)), model(images(64, 47)), FLOAT32)
    assert not norms_left(folded)
    assert folded.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in folded.parameters())


def test_the_original_stays_as_it_is() -> None:
    model = trained().train()
    before = copy.deepcopy(model.state_dict())
    optimize_for_inference(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_in_training_mode_gives_the_eval_model() -> None:
    model = trained(drop_rate=0.5, drop_path_rate=0.5)
    expected = model(images(64, 47))
    assert_close(optimize_for_inference(model.train())(images(64, 47)), expected, FLOAT32)


@pytest.mark.parametrize("kwargs", [{}, {"out_indices": (1, 3)}, {"feature_location": "expansion"}])
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_s"])
def test_features_only(name: str, kwargs: dict[str, Any]) -> None:
    model = trained(name, num_classes=None, features_only=True, **kwargs)
    for found, expected in zip(optimize_for_inference(model)(images(64, 47)), model(images(64, 47)), strict=True):
        assert_close(found, expected, FLOAT32)


@pytest.mark.parametrize("norm", ["groupnorm1", "layernorm2d"])
def test_other_norms_stay(norm: str) -> None:
    model = trained(norm_layer=norm)
    folded = optimize_for_inference(model)
    assert norms_left(folded) == norms_left(model)
    assert_close(folded(images(64, 47)), model(images(64, 47)), FLOAT32)


@pytest.mark.parametrize(
    "change",
    [
        freeze_batch_norm_2d,
        lambda model: model.prune_intermediate_layers(2),
        lambda model: model.set_grad_checkpointing(),
        lambda model: model.set_lean_training(),
        lambda model: model.double().float(),
    ],
)
def test_changed_models(change: Any) -> None:
    model = trained()
    change(model)
    folded = optimize_for_inference(model)
    assert not norms_left(folded)
    assert_close(folded(images(64, 47)), model(images(64, 47)), FLOAT32)


class Branched(nn.Conv2d):
    """A convolution with more than one: what an adapter makes of it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean()


def rebuilt(conv: nn.Conv2d, make: Any) -> nn.Conv2d:
    """Return a convolution of another class with the same attributes."""
    return make(
        conv.in_channels, conv.out_channels, conv.kernel_size,
        stride=conv.stride, padding=conv.padding, groups=conv.groups, bias=conv.bias is not None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda conv: rebuilt(conv, StdConv2d),
        lambda conv: rebuilt(conv, Branched),
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.no_grad()(lambda conv: prune.l1_unstructured(conv, "weight", 0.5)),  # else torch cannot copy it
    ],
    ids=["StdConv2d", "subclass", "weight_norm", "spectral_norm", "pruned"],
)
def test_convolutions_of_other_kinds_stay(change: Any) -> None:
    model = trained()
    block = model.blocks[2][0]
    block.conv_pw = change(block.conv_pw)
    folded = optimize_for_inference(model)
    assert_close(folded(images(64, 47)), model(images(64, 47)), FLOAT32)
    assert [name for name in norms_left(folded) if "parametrizations" not in name] == ["blocks.2.0.bn1"]


def test_a_convolution_of_two_places_stays() -> None:
    model = trained(depth_mult=0.6)
    _, first, second = model.blocks[5]
    first.conv_pwl = second.conv_pwl
    folded = optimize_for_inference(calibrated(model, 64))
    assert_close(folded(images(64, 47)), model(images(64, 47)), FLOAT32)
    assert norms_left(folded) == ["blocks.5.1.bn3", "blocks.5.2.bn3"]


def test_timms_own_convolution_is_folded() -> None:
    model = trained()
    block = model.blocks[2][0]
    conv = block.conv_dw
    block.conv_dw = Conv2dSame(
        conv.in_channels, conv.out_channels, conv.kernel_size, stride=2, groups=conv.groups, bias=False
    )
    folded = optimize_for_inference(model)
    assert_close(folded(images(64, 47)), model(images(64, 47)), FLOAT32)
    assert not norms_left(folded)


class DoubledNorm(BatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Noted(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        return input + 1


def with_doubled_norm(block: Any) -> None:
    block.bn1.__class__ = DoubledNorm


def with_another_drop(block: Any) -> None:
    block.bn1.drop = Noted()


def with_its_own_forward(block: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.bn1(self.conv_pw(x) + 1)
        x = self.bn2(self.conv_dw(x))
        return self.bn3(self.conv_pwl(self.se(x)))

    block.forward = MethodType(forward, block)


@pytest.mark.parametrize("change", [with_doubled_norm, with_another_drop, with_its_own_forward])
def test_norms_of_other_kinds_stay(change: Any) -> None:
    model = trained()
    change(model.blocks[5][0])
    folded = optimize_for_inference(model)
    assert_close(folded(images(64, 47)), model(images(64, 47)), FLOAT32)
    assert "blocks.5.0.bn1" in norms_left(folded)


def test_folding_twice_changes_nothing() -> None:
    folded = optimize_for_inference(trained())
    assert torch.equal(optimize_for_inference(folded)(images(64, 47)), folded(images(64, 47)))


def test_it_can_be_scripted_exported_and_compiled() -> None:
    model = trained(depth_mult=0.1)
    folded, x = optimize_for_inference(model), images(64, 47)
    expected = model(x)
    assert_close(torch.jit.script(folded)(x), expected, FLOAT32)
    assert_close(torch.export.export(folded, (x,)).module()(x), expected, FLOAT32)
    assert_close(torch.compile(folded, backend="aot_eager")(x), expected, FLOAT32)


def test_its_weights_survive_a_round_trip() -> None:
    folded = optimize_for_inference(trained())
    other = optimize_for_inference(trained())
    nn.init.zeros_(other.conv_stem.weight)
    other.load_state_dict(folded.state_dict())
    assert torch.equal(other(images(64, 47)), folded(images(64, 47)))


def test_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a hucorz_\* model, got Linear"):
        optimize_for_inference(nn.Linear(2, 2))


def test_unknown_attributes_are_named() -> None:
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = timm_effnet_ext.optimise  # type: ignore[attr-defined]
