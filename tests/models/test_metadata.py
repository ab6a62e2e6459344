"""A state_dict says which model its weights are of, wherever it is kept, and is otherwise what it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.utils import CheckpointSaver, ModelEmaV3, get_state_dict
from torch import nn
from torch.nn.parallel import DataParallel

from tests.small_models import SMALL, create, images
from timm_effnet_ext.arch.rows import ARCHS, PREFIX

B0 = "hucorz_efficientnet_b0"


def described(state: Any, prefix: str = "") -> dict[str, Any]:
    """Return what the metadata of a state_dict says of the network at `prefix`, its preprocessing left out."""
    return {key: state._metadata[prefix][key] for key in ("architecture", "model_args")}


def test_it_says_how_the_models_cfg_prepares_images(tmp_path: Path) -> None:
    model = create(B0, **SMALL, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)})
    torch.save(model.state_dict(), tmp_path / "w.pth")
    said = torch.load(tmp_path / "w.pth", weights_only=True)._metadata[""]["preprocessing"]
    assert said == {name: model.pretrained_cfg[name] for name in said}
    assert said.keys() == {"input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"}


@pytest.mark.parametrize("name", ARCHS)
def test_every_arch_states_its_name(name: str) -> None:
    state = create(PREFIX + name, device="meta").state_dict()
    assert described(state) == {"architecture": PREFIX + name, "model_args": {}}


@pytest.mark.parametrize(
    ("kwargs", "args"),
    [
        (SMALL, SMALL),
        ({"pad_type": "", "bn_eps": 1e-5}, {"pad_type": "", "bn_eps": 1e-5}),
        ({"bn_eps": np.float64(1e-5), "width_mult": np.float32(0.5)}, {"bn_eps": 1e-5, "width_mult": 0.5}),
        ({"act_layer": "relu"}, {"act_layer": "relu"}),
        ({"act_layer": nn.ReLU}, {"act_layer": "ReLU"}),
        ({"act_layer": nn.SiLU, "pad_type": "same", "lean": True}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("features_only", [False, True])
def test_a_file_says_what_differs(
    kwargs: dict[str, Any], args: dict[str, Any], features_only: bool, tmp_path: Path
) -> None:
    model = create(B0, features_only=features_only, **kwargs)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    assert described(state) == {"architecture": B0, "model_args": args}
    create(B0, features_only=features_only, **kwargs).load_state_dict(state, strict=True)


def test_a_checkpoint_of_timms_trainer_says_it(tmp_path: Path) -> None:
    model = create(B0, **SMALL)
    ema = ModelEmaV3(model)
    saver = CheckpointSaver(model, torch.optim.SGD(model.parameters()), model_ema=ema, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0)
    saved = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    for key in ("state_dict", "state_dict_ema"):
        assert described(saved[key]) == {"architecture": B0, "model_args": SMALL}


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (DataParallel, "module"),
        (lambda model: torch.compile(model, backend="eager"), "_orig_mod"),
        (lambda model: nn.Sequential(nn.Identity(), model), "1"),
        (copy.deepcopy, ""),
    ],
    ids=["DataParallel", "compile", "Sequential", "deepcopy"],
)
def test_wrappers_keep_it(wrap: Any, prefix: str) -> None:
    model = create(B0, **SMALL)
    wrapped = wrap(model)
    assert described(wrapped.state_dict(), prefix) == {"architecture": B0, "model_args": SMALL}
    assert described(get_state_dict(model)) == {"architecture": B0, "model_args": SMALL}
    wrapped.load_state_dict(wrapped.state_dict(), strict=True)


def test_a_destination_of_ones_own() -> None:
    model = create(B0, **SMALL)
    plain: dict[str, Any] = {}
    model.state_dict(destination=plain, prefix="backbone.")
    assert list(plain) == [f"backbone.{key}" for key in model.state_dict()]


def test_what_is_said_is_a_copy() -> None:
    model = create(B0, **SMALL)
    described(model.state_dict())["model_args"].clear()
    assert described(model.state_dict())["model_args"] == SMALL


def test_scripting_still_works() -> None:
    model = create(B0, **SMALL).eval()
    scripted = torch.jit.script(model)
    assert scripted.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(scripted(images(64)), model(images(64)))
