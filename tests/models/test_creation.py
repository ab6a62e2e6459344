"""Creating a pretrained model draws nothing at random, takes the file's memory over, and never writes into it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.small_models import SMALL
from timm_effnet_ext.errors import CheckpointFormatError

NAME = "hucorz_efficientnet_b0"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model(NAME, **SMALL).state_dict(), path)
    return path


def create_from(weights: Path, **kwargs: Any) -> Any:
    return timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, **SMALL, **kwargs)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_random_number_is_drawn(weights: Path) -> None:
    state = torch.get_rng_state()
    create_from(weights)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_those_of_the_file(weights: Path) -> None:
    model = create_from(weights)
    expected = timm.create_model(NAME, checkpoint_path=str(weights), **SMALL).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad and isinstance(p, nn.Parameter) for p in model.parameters())


def test_weights_are_not_copied_out_of_the_file(weights: Path) -> None:
    model = create_from(weights)
    with weights.open("r+b") as file:
        header = int.from_bytes(file.read(8), "little")
        file.seek(8 + header)
        file.write(bytes(weights.stat().st_size - 8 - header))
    assert not any(tensor.any() for tensor in model.state_dict().values())


def test_training_never_writes_into_the_file(weights: Path) -> None:
    before = digest(weights)
    model = create_from(weights).train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(7)
    assert digest(weights) == before
    assert not torch.equal(create_from(weights).conv_stem.weight, model.conv_stem.weight)


def test_two_models_of_one_file_are_apart(weights: Path) -> None:
    one, other = create_from(weights), create_from(weights)
    nn.init.zeros_(one.conv_stem.weight)
    assert other.conv_stem.weight.any()


def test_the_callers_tensors_stay_the_callers(weights: Path) -> None:
    state = timm.create_model(NAME, **SMALL).state_dict()
    kept = state["conv_stem.weight"].clone()
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **SMALL)
    nn.init.zeros_(model.conv_stem.weight)
    assert torch.equal(state["conv_stem.weight"], kept)


@pytest.mark.parametrize("kwargs", [{}, {"act_layer": "relu"}, {"linear_probe": True}])
def test_another_classifier_is_drawn_for_trained_features_as_timm_draws_one(weights: Path, kwargs: Any) -> None:
    model = create_from(weights, num_classes=2, **kwargs)
    reset = create_from(weights)
    reset.reset_classifier(2)
    twin = timm.create_model("tf_efficientnet_b0", num_classes=3)
    twin.reset_classifier(2)
    for made in (model, reset, twin):
        limit = made.num_features**-0.5  # of 1000 classes it is about Google's 1 / sqrt(classes), of 2 that is 0.7
        assert made.classifier.weight.shape == (2, made.num_features)
        assert 0.9 * limit < made.classifier.weight.abs().max() <= limit
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert all(p.requires_grad for p in model.classifier.parameters())


def test_a_model_without_weights_is_drawn_as_google_draws_it() -> None:
    assert 0.9 < timm.create_model(NAME, num_classes=2, **SMALL).classifier.weight.abs().max() * 2**0.5 <= 1


@pytest.mark.parametrize("kwargs", [{"in_chans": 1}, {"features_only": True}, {"num_classes": 0},
                                    {"act_layer": "relu"}, {"device": "cpu"}, {"dtype": torch.float64}])  # fmt: skip
def test_every_kind_of_model_has_all_its_values(weights: Path, kwargs: dict[str, Any]) -> None:
    model = create_from(weights, **kwargs)
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    x = torch.randn(2, kwargs.get("in_chans", 3), 32, 32, dtype=kwargs.get("dtype"))
    out = model(x)
    assert all(torch.isfinite(o).all() for o in (out if isinstance(out, list) else [out]))


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v
               for k, v in timm.create_model(NAME, **SMALL).state_dict().items()}, path)  # fmt: skip
    assert {p.dtype for p in create_from(path).parameters()} == {torch.float32}


def test_a_file_without_counters_counts_from_zero(tmp_path: Path, weights: Path) -> None:
    state = {k: v for k, v in create_from(weights).state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "old.safetensors"
    save_file({k: v.clone() for k, v in state.items()}, path)
    assert create_from(path).bn1.num_batches_tracked == 0


def test_damaged_values_are_still_refused(tmp_path: Path, weights: Path) -> None:
    state = {k: v.clone() for k, v in create_from(weights).state_dict().items()}
    state["conv_head.weight"][0] = float("nan")
    path = tmp_path / "nan.safetensors"
    save_file(state, path)
    with pytest.raises(CheckpointFormatError, match=r"conv_head\.weight has \d+ values"):
        create_from(path)


def test_finite_values_whose_sum_is_not_are_accepted(weights: Path) -> None:
    model = create_from(weights)
    state = model.state_dict() | {"bn2.bias": torch.full_like(model.bn2.bias, 3e38)}
    model.load_state_dict(state)
    assert model.bn2.bias[0] == torch.tensor(3e38)
