"""Frozen parts: no gradient, no moving statistics, nothing kept for backward; the rest trains as ever."""

import copy

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import timm_effnet_ext  # noqa: F401  registers the models
from benchmarks.measure import kept_bytes

MODEL = "hucorz_efficientnetv2_b0"
TINY = {"width_mult": 0.25, "depth_mult": 0.3, "num_classes": 4}


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
    model = timm.create_model(MODEL, features_only=True, width_mult=0.25, depth_mult=0.3, freeze="stem,blocks.0")
    model.train()
    assert not model.blocks[0].training
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"blocks"}


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
