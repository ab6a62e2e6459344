"""What a weight file says of its model is compared with the model that it is loaded into; silence is said."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import load_checkpoint, resume_checkpoint
from torch import nn

from tests.small_models import SMALL, assert_same_values, create, images
from timm_effnet_ext.errors import CheckpointFormatError

B0 = "hucorz_efficientnet_b0"
PYTORCH = {"pad_type": "", "bn_eps": 1e-5}
SILENT = "does not say which model it is of"


def overlay(file: Path, **kwargs: Any) -> nn.Module:
    cfg = {"file": str(file), **kwargs.pop("pretrained_cfg_overlay", {})}
    return timm.create_model(B0, pretrained=True, pretrained_cfg_overlay=cfg, **kwargs)


def checkpoint(file: Path, **kwargs: Any) -> nn.Module:
    return timm.create_model(B0, checkpoint_path=str(file), **kwargs)


def resumed(file: Path, **kwargs: Any) -> nn.Module:
    model = create(B0, **kwargs)
    resume_checkpoint(model, str(file))
    return model


def loaded(file: Path, **kwargs: Any) -> nn.Module:
    model = create(B0, **kwargs)
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state.get("state_dict", state))
    return model


def trained(folder: Path, model: nn.Module, arch: str, **args: Any) -> Path:
    """Write what timm's CheckpointSaver writes of a run."""
    run = {"epoch": 1, "arch": arch, "state_dict": model.state_dict(), "args": argparse.Namespace(**args)}
    torch.save(run, folder / "last.pth.tar")
    return folder / "last.pth.tar"


@pytest.mark.parametrize("load", [overlay, checkpoint, resumed])
def test_the_name_in_a_checkpoint_of_train_py_counts(load: Any, tmp_path: Path) -> None:
    theirs = timm.create_model("efficientnet_b0")
    file = trained(tmp_path, theirs, "efficientnet_b0", bn_eps=None, model_kwargs={})
    with pytest.raises(CheckpointFormatError) as caught:
        load(file)
    expected = "its arch names 'efficientnet_b0' with pad_type='', bn_eps=1e-05, the model has 'same', 0.001"
    assert f"{file}: {expected}: other numbers from the same weights. Create it with" in str(caught.value)
    assert_same_values(load(file, **PYTORCH).eval()(images(64)), theirs.eval()(images(64)))


@pytest.mark.parametrize("load", [overlay, checkpoint, resumed])
@pytest.mark.parametrize("arch", ["tf_efficientnet_b0", "tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k", B0])
def test_names_of_the_same_network_pass(load: Any, arch: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(trained(tmp_path, timm.create_model("tf_efficientnet_b0"), arch))
    assert SILENT not in caplog.text


def test_the_arguments_of_the_run_count(tmp_path: Path) -> None:
    file = trained(tmp_path, timm.create_model("tf_efficientnet_b0"), "tf_efficientnet_b0", bn_eps=1e-5)
    with pytest.raises(CheckpointFormatError, match=r"with bn_eps=1e-05, the model has 0\.001"):
        checkpoint(file)


@pytest.mark.parametrize("load", [overlay, checkpoint, resumed, loaded])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_metadata_of_our_models_count(load: Any, wrapped: bool, tmp_path: Path) -> None:
    state = create(B0, **SMALL, **PYTORCH).state_dict()
    torch.save({"state_dict": state} if wrapped or load is resumed else state, tmp_path / "w.pth")
    with pytest.raises(CheckpointFormatError, match="its metadata names 'hucorz_efficientnet_b0' with pad_type=''"):
        load(tmp_path / "w.pth", **SMALL)
    load(tmp_path / "w.pth", **SMALL, **PYTORCH)


def test_two_ways_to_say_an_activation_are_equal(caplog: pytest.LogCaptureFixture) -> None:
    state = create(B0, **SMALL, act_layer="hard_swish").state_dict()
    create(B0, **SMALL, act_layer=timm.layers.get_act_layer("hard_swish")).load_state_dict(state)
    assert caplog.text == ""
    with pytest.raises(CheckpointFormatError, match="with act_layer='hard_swish', the model has None"):
        create(B0, **SMALL).load_state_dict(state)


def test_a_row_and_another_one_scaled_to_it_are_equal() -> None:
    b2, scaled = create("hucorz_efficientnet_b2"), create(B0, width_mult=1.1, depth_mult=1.2)
    b2.load_state_dict(scaled.state_dict())
    scaled.load_state_dict(b2.state_dict())


@pytest.mark.parametrize("load", [overlay, checkpoint])
def test_a_file_that_says_nothing_is_said_to(load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(timm.create_model("tf_efficientnet_b0").state_dict(), tmp_path / "w.pth")
    load(tmp_path / "w.pth")
    assert f"w.pth {SILENT}: taken for tf_efficientnet_b0's. If it is of timm's efficientnet_b0" in caplog.text


@pytest.mark.parametrize("arch", ["local-dir:folder", "mine", 3, None])
def test_other_names_in_a_checkpoint_say_nothing(arch: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(trained(tmp_path, timm.create_model("tf_efficientnet_b0"), arch, model_kwargs=None))
    assert SILENT in caplog.text


def test_what_the_user_says_is_not_assumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(timm.create_model("efficientnet_b0").state_dict(), tmp_path / "w.pth")
    load_checkpoint(create(B0, **PYTORCH), str(tmp_path / "w.pth"))
    assert SILENT not in caplog.text


def test_a_model_that_timm_has_once_is_not_assumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(timm.create_model("tf_efficientnetv2_b0").state_dict(), tmp_path / "w.pth")
    timm.create_model("hucorz_efficientnetv2_b0", checkpoint_path=str(tmp_path / "w.pth"))
    assert SILENT not in caplog.text


@pytest.mark.parametrize("load", [overlay, checkpoint, resumed, loaded])
def test_another_mean_is_said(load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = create(f"{B0}.ap_in1k", **SMALL)  # for images of [-1, 1], unlike the default weights
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "w.pth")
    load(tmp_path / "w.pth", **SMALL)
    where = "state_dict" if load is loaded else "w.pth"
    assert f"{where}: made for images of mean=(0.5, 0.5, 0.5), the cfg of the model that loads it says" in caplog.text
    caplog.clear()
    load(tmp_path / "w.pth", **SMALL, pretrained_cfg_overlay={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    assert "made for images" not in caplog.text
