"""Frozen parts: no gradient, no moving statistics, nothing kept for backward; the rest trains as ever."""

import copy
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, convert_sync_batchnorm, unfreeze_batch_norm_2d
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from benchmarks.measure import kept_bytes
from tests.closeness import FLOAT32, assert_close
from tests.small_models import SMALL, calibrated, images
from timm_effnet_ext import optimize_for_inference
from timm_effnet_ext.models.freeze import FrozenBatchNorm

MODEL = "hucorz_efficientnetv2_b0"
TINY = {**SMALL, "num_classes": 4}


def model_of(**kwargs):
    torch.manual_seed(0)
    return timm.create_model(MODEL, drop_path_rate=0.2, **{**TINY, **kwargs}).train()


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    optimizer.step()


def moved(model, steps=2):
    """Return the names in the state_dict that training changes."""
    before = copy.deepcopy(model.state_dict())
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.1)
    for _ in range(steps):
        model.train()
        step(model, optimizer)
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def kept(model, x):
    """Return how many bytes of activations a step keeps for backward."""
    return kept_bytes(model, lambda: model(x).square().mean())


def test_linear_probe_moves_the_classifier_alone():
    assert moved(model_of(linear_probe=True)) == {"classifier.weight", "classifier.bias"}


def test_partial_freezing_moves_the_rest():
    model = model_of(freeze="stem,blocks.0-3")
    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.", "blocks.2.", "blocks.3.")
    assert moved(model) == {name for name in model.state_dict() if not name.startswith(frozen)}


def test_frozen_part_stays_in_eval_mode():
    model = model_of(freeze="blocks.1")
    model.train()
    assert {m.training for m in model.blocks[1].modules()} == {False}
    assert {m.training for m in model.blocks[2].modules()} == {True}
    model.eval()
    assert not any(m.training for m in model.modules())


def test_linear_probe_keeps_next_to_nothing_for_backward():
    x = torch.randn(4, 3, 64, 64)
    full, probe = model_of(), model_of(linear_probe=True)
    # the pooled features and what the loss keeps of four logits each
    assert kept(probe, x) <= 2 * 4 * (probe.num_features + 4) * 4
    assert kept(probe, x) < 0.02 * kept(full, x)


def test_frozen_beginning_keeps_nothing_for_backward():
    model = model_of(freeze="stem,blocks.0-1")
    beginning = torch.nn.Sequential(model.conv_stem, model.bn1, model.blocks[0], model.blocks[1])
    x = torch.randn(4, 3, 64, 64)
    assert kept_bytes(beginning, lambda: beginning(x)) == 0


def test_optimizer_takes_only_what_trains():
    optimizer = create_optimizer_v2(model_of(linear_probe=True), opt="sgd", lr=0.1, weight_decay=1e-4)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == 1280 // 4 * 4 + 4


def test_a_new_classifier_trains():
    model = model_of(linear_probe=True)
    model.reset_classifier(7)
    assert moved(model) == {"classifier.weight", "classifier.bias"}


def test_freezing_survives_a_copy_and_a_checkpoint():
    source, target = model_of(), model_of(linear_probe=True)
    target.load_state_dict(source.state_dict())
    ema = ModelEmaV3(target)
    assert moved(target) == {"classifier.weight", "classifier.bias"}
    ema.update(target)
    assert moved(copy.deepcopy(target)) == {"classifier.weight", "classifier.bias"}


def test_freezing_survives_pruning():
    model = model_of(freeze="stem,blocks.0-4")
    model.prune_intermediate_layers([0, 1])
    model.train()
    assert not model.blocks[1].training


def test_feature_extractor_can_be_frozen():
    model = timm.create_model(MODEL, features_only=True, **SMALL, freeze="stem,blocks.0")
    model.train()
    assert not model.blocks[0].training
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"blocks"}


def averaged(model):
    update_bn([images(64)], AveragedModel(model))


def assigned(model):
    """Do what the weight averaging of Lightning does."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean = torch.zeros_like(module.running_mean)
            module.running_var = torch.ones_like(module.running_var)


def reset(model):
    for module in model.modules():
        if hasattr(module, "reset_running_stats"):
            module.reset_running_stats()


@pytest.mark.parametrize("wreck", [partial(update_bn, [images(64)]), averaged, assigned, reset, convert_sync_batchnorm])
def test_nothing_that_looks_for_batch_norms_finds_a_frozen_one(wreck):
    source = calibrated(model_of())
    model = model_of(freeze="stem,blocks.0-4", num_classes=0)
    model.load_state_dict({k: v for k, v in source.state_dict().items() if not k.startswith("classifier")})
    before = copy.deepcopy(model.state_dict())
    wreck(model)
    frozen = [key for key in before if key.startswith(("conv_stem.", "bn1.", *(f"blocks.{i}." for i in range(5))))]
    assert len(frozen) > 50
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in frozen)


def test_what_is_frozen_computes_what_it_did():
    model = calibrated(model_of())
    frozen = model_of(linear_probe=True)
    frozen.load_state_dict(model.state_dict())
    assert torch.equal(frozen.eval()(images(64)), model(images(64)))


def test_a_frozen_norm_is_timms_and_keeps_the_dtype():
    norm = BatchNormAct2d(4, eps=1e-3, act_layer=torch.nn.SiLU)
    norm(torch.randn(8, 4, 5, 5) * 3 + 1)
    theirs = FrozenBatchNormAct2d(4, eps=1e-3, act_layer=torch.nn.SiLU)
    theirs.load_state_dict(norm.state_dict())
    x = torch.randn(2, 4, 3, 3)
    assert_close(FrozenBatchNorm.of(norm)(x), theirs(x), FLOAT32)
    with torch.autocast("cpu", torch.bfloat16):
        assert FrozenBatchNorm.of(norm)(x.bfloat16()).dtype == torch.bfloat16


class Doubled(BatchNormAct2d):
    def forward(self, x):
        return 2 * super().forward(x)


def doubled(chs, **kwargs):
    return Doubled(chs, **kwargs)


@pytest.mark.parametrize("norm", [doubled, "groupnorm1", partial(BatchNormAct2d, track_running_stats=False)])
def test_norms_of_other_kinds_stay(norm):
    model, frozen = (model_of(norm_layer=norm, freeze=parts) for parts in ("", "stem"))
    assert type(frozen.bn1) is type(model.bn1)
    assert not frozen.bn1.training


def torch_file(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def safetensors_file(state, path):
    save_file(state, path)
    return load_file(path)


@pytest.mark.parametrize("through", [torch_file, safetensors_file])
@pytest.mark.parametrize(("source", "target"), [({}, {"freeze": "stem,blocks.1"}), ({"linear_probe": True}, {}),
                                                ({"linear_probe": True}, {"linear_probe": True})], ids=str)  # fmt: skip
def test_checkpoints_go_both_ways(source, target, through, tmp_path):
    source, target = model_of(**source).eval(), model_of(**target).eval()
    torch.nn.init.uniform_(source.blocks[1][0].bn1.running_mean)
    target.load_state_dict(through(source.state_dict(), tmp_path / "file"), strict=True)
    assert torch.equal(target(images(64)), source(images(64)))


@pytest.mark.parametrize("kwargs", [{"linear_probe": True}, {"features_only": True, "freeze": "stem,blocks.0-4"},
                                    {"freeze": "blocks.0", "device": "cpu"}], ids=str)  # fmt: skip
def test_pretrained_weights_reach_frozen_norms(kwargs, tmp_path):
    source = calibrated(model_of())
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    overlay = {"file": str(tmp_path / "w.safetensors"), "num_classes": 4}
    model = model_of(pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    assert any(isinstance(m, FrozenBatchNorm) for m in model.modules())
    state = source.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_from_before_frozen_norms_resumes(tmp_path):
    older = model_of()
    older.requires_grad_(False).classifier.requires_grad_(True)
    make = partial(create_optimizer_v2, opt="adamw", lr=0.1, weight_decay=0.1)
    optimizer = make(older)
    step(older, optimizer)
    torch.save(
        {"state_dict": older.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "version": 2},
        tmp_path / "last.pth.tar",
    )
    model = model_of(linear_probe=True)
    optimizer = make(model)
    assert resume_checkpoint(model, str(tmp_path / "last.pth.tar"), optimizer, log_info=False) == 4
    assert torch.equal(model.eval()(images(64)), older.eval()(images(64)))
    step(model, optimizer)


def test_thawing():
    model = model_of(linear_probe=True, bn_eps=1e-2)
    assert unfreeze_batch_norm_2d(model).requires_grad_() is model
    model.freeze("")
    assert moved(model) == set(model.state_dict())
    assert model.bn1.eps == 1e-2


@pytest.mark.parametrize("expansion", [False, True])
def test_feature_extractor_keeps_its_taps(expansion):
    kwargs = dict(features_only=True, feature_location="expansion" if expansion else "bottleneck", num_classes=None)
    model, frozen = model_of(**kwargs).eval(), model_of(**kwargs, freeze="stem,blocks.0-2").eval()
    for found, expected in zip(frozen(images(64)), model(images(64)), strict=True):
        assert torch.equal(found, expected)


def test_it_can_be_scripted_exported_and_folded():
    model = calibrated(model_of(freeze="stem,blocks.0-2", act_layer="relu"))
    expected, x = model(images(64)), images(64)
    exported = torch.export.export(model, (x,)).module()
    for other in (torch.jit.script(model), exported, optimize_for_inference(model)):
        assert (other(x) - expected).norm() <= 1e-5 * expected.norm()  # float32, operations in another order
    assert not any("Norm" in type(m).__name__ for m in optimize_for_inference(model).modules())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"freeze": "stem,block.0"}, r"freeze: no part 'block.0' in stem, blocks.0, .*; did you mean blocks.0\?"),
        ({"freeze": "blocks.4-9"}, "no part 'blocks.4-9' in stem, .*blocks.5, head"),
        ({"freeze": "blocks.3-1"}, "no part 'blocks.3-1'"),
        ({"freeze": "blocks.0-99999999999"}, "no part 'blocks.0-99999999999'"),  # found before it is written out
        ({"freeze": "classifier"}, "no part 'classifier'"),
        ({"linear_probe": True, "num_classes": 0}, "nothing is left to train: .* there is no classifier"),
    ],
)
def test_what_cannot_be_frozen_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        model_of(**kwargs)
