"""`pretrained=True` and `hf-hub:` against a local Hub: what comes back and from where, and what is said otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import timm_effnet_ext  # noqa: F401  registers the models
from tests.closeness import assert_close
from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from tests.processes import python
from tests.small_models import SMALL, assert_same_values, create
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError

V2S = "timm/tf_efficientnetv2_s.in21k_ft_in1k"
ABSENT_FROM_TIMM = {f"efficientnetv2_b{n}.{tag}" for n in range(3) for tag in ("in21k", "in21k_ft_in1k")}

LOGITS_THEN_PRETRAINED_NAMES = """
import sys, numpy, timm, torch, timm_effnet_ext
model = timm.create_model(sys.argv[1], pretrained=True).eval()
with torch.no_grad():
    numpy.save(sys.argv[2], model(torch.from_numpy(numpy.load(sys.argv[3]))).numpy())
print(*timm.list_models("hucorz_*", pretrained=True))
"""


def hub_files(model: nn.Module, weights: dict[str, Tensor] | None = None, **config: Any) -> dict[str, bytes]:
    """Return what timm's `push_to_hf_hub` would upload for a model."""
    config = {"architecture": "hucorz_efficientnet_b0", "num_classes": 1000, "model_args": SMALL, **config}
    config["pretrained_cfg"] = {"input_size": [3, 224, 224], "first_conv": "conv_stem", "classifier": "classifier"}
    raw = safetensors.torch.save(model.state_dict() if weights is None else weights)
    return {"config.json": json.dumps(config).encode(), "model.safetensors": raw}


def load(repo: str = "alice/small", **kwargs: Any) -> nn.Module:
    """Create a small B0 with the weights of a repository."""
    overlay = {"hf_hub_id": repo}
    return timm.create_model(
        "hucorz_efficientnet_b0", pretrained=True, pretrained_cfg_overlay=overlay, **SMALL, **kwargs
    )


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return timm.create_model("hucorz_efficientnet_b0", **SMALL).eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_v2_s_comes_from_timms_repository_and_then_from_the_cache(
    local_hub: LocalHub, tmp_path: Path, image: Tensor
) -> None:
    twin = create("tf_efficientnetv2_s").eval()
    files = hub_files(twin, architecture="tf_efficientnetv2_s", model_args={})
    local_hub.add(V2S, files)
    np.save(tmp_path / "image.npy", image.numpy())
    with torch.no_grad():
        expected = twin(image)
    outs = [tmp_path / "online.npy", tmp_path / "down.npy"]
    python("-c", LOGITS_THEN_PRETRAINED_NAMES, "hucorz_efficientnetv2_s", outs[0], tmp_path / "image.npy")
    local_hub.stop()
    python("-c", LOGITS_THEN_PRETRAINED_NAMES, "hucorz_efficientnetv2_s", outs[1], tmp_path / "image.npy")
    for out in outs:
        # Two implementations in float32 of a network that amplifies roundings; other weights differ by all of it.
        assert_close(np.load(out), expected, within=1e-3)


def test_hub_user_of_the_environment_replaces_timms_repositories_and_adds_tags(
    local_hub: LocalHub, tmp_path: Path, image: Tensor
) -> None:
    model = timm.create_model("hucorz_efficientnetv2_b0", num_classes=21843).eval()
    uploaded = hub_files(model, architecture="hucorz_efficientnetv2_b0", model_args={}, num_classes=21843)
    local_hub.add("someuser/hucorz_efficientnetv2_b0.in21k", uploaded)
    np.save(tmp_path / "image.npy", image.numpy())
    files = "hucorz_efficientnetv2_b0.in21k", tmp_path / "out.npy", tmp_path / "image.npy"
    listed = python("-c", LOGITS_THEN_PRETRAINED_NAMES, *files, TIMM_EFFNET_EXT_HUB="someuser").stdout
    with torch.no_grad():
        assert_same_values(torch.from_numpy(np.load(tmp_path / "out.npy")), model(image))
    assert all("someuser/" in request for request in local_hub.requests if "resolve" in request)
    timms = set(timm.list_models("hucorz_*", pretrained=True))
    assert timms < set(listed.split())
    assert set(listed.split()) - timms == {f"hucorz_{name}" for name in ABSENT_FROM_TIMM}


def test_hf_hub_name_computes_what_was_uploaded(local_hub: LocalHub, small: nn.Module, image: Tensor) -> None:
    local_hub.add("alice/small", hub_files(small))
    model = timm.create_model("hf-hub:alice/small", pretrained=True).eval()
    assert_same_values(model(image), small(image))


def test_the_config_of_another_cache_folder_counts_too(local_hub: LocalHub, small: nn.Module, tmp_path: Path) -> None:
    local_hub.add("alice/small", hub_files(small))
    load(cache_dir=tmp_path / "mine")
    assert not (tmp_path / "hub_cache").exists()
    local_hub.stop()
    assert torch.equal(load(cache_dir=tmp_path / "mine").conv_stem.weight, small.conv_stem.weight)
    (config,) = (tmp_path / "mine").rglob("config.json")
    config.write_text(config.read_text().replace('"model_args": {', '"model_args": {"bn_eps": 1e-5, '))
    with pytest.raises(CheckpointFormatError, match="with bn_eps=1e-05, the model has"):
        load(cache_dir=tmp_path / "mine")


@pytest.mark.parametrize("names", [("model.safetensors",), ("model.safetensors", "config.json")])
def test_a_cached_repository_is_not_waited_for(
    local_hub: LocalHub, small: nn.Module, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    files = hub_files(small)
    local_hub.add("alice/small", {name: files[name] for name in names})
    load()
    local_hub.stop()
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    assert torch.equal(load().conv_stem.weight, small.conv_stem.weight)
    assert waits == []


def test_a_new_commit_is_checked_with_its_own_config(local_hub: LocalHub, small: nn.Module) -> None:
    local_hub.add("alice/small", hub_files(small))
    load()
    local_hub.add("alice/small", hub_files(small, architecture="efficientnet_b0"))
    with pytest.raises(CheckpointFormatError, match=r"its config.json names 'efficientnet_b0'"):
        load()


def test_a_token_opens_a_private_repository(
    local_hub: LocalHub, small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.add("alice/small", hub_files(small), private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert torch.equal(load().conv_stem.weight, small.conv_stem.weight)


@pytest.mark.parametrize("access", [None, "private", "gated"])
@pytest.mark.parametrize("token", [None, "hf_bob"])
def test_a_repository_that_is_not_shown(
    local_hub: LocalHub, small: nn.Module, monkeypatch: pytest.MonkeyPatch, access: str | None, token: str | None
) -> None:
    if access:
        local_hub.add("alice/small", hub_files(small), **{access: True})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = (
        "hucorz_efficientnet_b0: the Hub shows no repository 'alice/small': it does not exist, or it is private or "
        "gated and needs a token that opens it. Check the name, or log in: hf auth login."
    )
    with pytest.raises(EffNetExtError) as caught:
        load()
    assert str(caught.value) == message


def test_the_hub_is_down_and_the_cache_empty(local_hub: LocalHub) -> None:
    local_hub.stop()
    with pytest.raises(EffNetExtError, match=r"not in the cache and the Hub cannot be reached \(.*refused\).* Connect"):
        timm.create_model("hucorz_efficientnetv2_s", pretrained=True)


def test_offline_mode_and_the_cache_empty(local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EffNetExtError, match="not in the cache and the Hub was not asked: HF_HUB_OFFLINE is set"):
        load()
    assert local_hub.requests == []


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_the_hub_refuses(local_hub: LocalHub, small: nn.Module, status: int) -> None:
    local_hub.add("alice/small", hub_files(small))
    local_hub.faults.append(Fault("/resolve/", status=status, times=100))
    with pytest.raises(EffNetExtError, match=rf"the Hub answered {status} for /alice/small/resolve/main/"):
        load()


def test_the_hub_stumbles(local_hub: LocalHub, small: nn.Module) -> None:
    local_hub.add("alice/small", hub_files(small))
    local_hub.faults += [Fault("HEAD .*safetensors", status=503), Fault("GET .*safetensors", cut_after=1000)]
    assert torch.equal(load().conv_stem.weight, small.conv_stem.weight)


def test_no_weight_file(local_hub: LocalHub) -> None:
    local_hub.add("alice/small", {"config.json": b"{}"})
    with pytest.raises(EffNetExtError, match=r"the repository has no weight file: the Hub answered 404 .*alice/small"):
        load()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("GET .*safetensors", cut_after=0, times=100), "the download failed: the Hub cannot be reached"),
        (Fault("GET .*safetensors", body=b"short"), r"the download failed: .* of size \d+ but has size 5"),
        (Fault("HEAD .*safetensors", lose_answer=True, times=100), "the download failed: the Hub cannot be reached"),
    ],
    ids=["cut", "other length", "no answer"],
)
def test_a_download_that_fails_is_no_file_in_the_cache(
    local_hub: LocalHub, small: nn.Module, tmp_path: Path, fault: Fault, message: str
) -> None:
    local_hub.add("alice/small", hub_files(small))
    local_hub.faults.append(fault)
    with pytest.raises(EffNetExtError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "hub_cache").rglob("*.safetensors"))
    local_hub.faults.clear()
    assert torch.equal(load().conv_stem.weight, small.conv_stem.weight)


def test_other_weights_of_the_announced_length_are_refused_and_not_kept(local_hub: LocalHub, small: nn.Module) -> None:
    local_hub.add("alice/small", hub_files(small))
    other = _with(small, "classifier.bias", 1.0)["model.safetensors"]
    local_hub.faults.append(Fault("GET .*safetensors", body=other))
    with pytest.raises(CheckpointFormatError, match=r"model.safetensors arrived with another sha256 than the Hub ann"):
        load()
    assert torch.equal(load().conv_stem.weight, small.conv_stem.weight)


def _truncated(model: nn.Module) -> dict[str, bytes]:
    files = hub_files(model)
    return files | {"model.safetensors": files["model.safetensors"][:-1000]}


def _with(model: nn.Module, name: str, value: float) -> dict[str, bytes]:
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights[name].view(-1)[0] = value
    return hub_files(model, weights)


BAD_FILES: dict[str, tuple[Callable[[nn.Module], dict[str, bytes]], str]] = {
    "truncated": (_truncated, "hucorz_efficientnet_b0: the weight file is cut or is no weight file"),
    "html": (
        lambda model: hub_files(model) | {"model.safetensors": b"<!DOCTYPE html><html>Not found</html>"},
        "hucorz_efficientnet_b0: the weight file is cut or is no weight file",
    ),
    "foreign": (
        lambda model: hub_files(model, {"fc.weight": torch.ones(3, 2)}),
        r"alice/small: the weights are another model's. It fits none of the 29 architectures",
    ),
    "another model": (
        lambda model: hub_files(timm.create_model("hucorz_efficientnet_lite0", **SMALL)),
        r"alice/small: the weights are another model's. It fits .*efficientnet_lite0 \(num_classes=1000, in_chans=3, ",
    ),
    "another padding": (
        lambda model: hub_files(model, architecture="efficientnet_b0"),
        "alice/small: its config.json names 'efficientnet_b0' with pad_type='', bn_eps=1e-05, the model has 'same',",
    ),
    "another eps": (
        lambda model: hub_files(model, model_args={**SMALL, "bn_eps": 1e-5}),
        "alice/small: its config.json names 'hucorz_efficientnet_b0' with bn_eps=1e-05, the model has 0.001",
    ),
    "not finite": (
        lambda model: _with(model, "blocks.1.0.conv_pw.weight", float("nan")),
        "blocks.1.0.conv_pw.weight has 1 values that are not finite",
    ),
    "negative variance": (
        lambda model: _with(model, "bn1.running_var", -0.5),
        r"bn1.running_var has a negative variance \(-0.5\)",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused(local_hub: LocalHub, small: nn.Module, case: str) -> None:
    make, message = BAD_FILES[case]
    local_hub.add("alice/small", make(small))
    with pytest.raises(CheckpointFormatError, match=message) as caught:
        load()
    assert len(str(caught.value)) < 700
