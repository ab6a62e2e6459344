"""Whatever reaches a model through timm is this model's, whole and finite, or refused with a line that helps."""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.closeness import FLOAT32, assert_close
from tests.small_models import SMALL, assert_same_values, create, images
from timm_effnet_ext.errors import CheckpointFormatError

B0, B1 = "hucorz_efficientnet_b0", "hucorz_efficientnet_b1"


def from_overlay(name: str, file: Path, **kwargs: Any) -> nn.Module:
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **kwargs)


def from_checkpoint(name: str, file: Path, **kwargs: Any) -> nn.Module:
    return timm.create_model(name, checkpoint_path=str(file), **kwargs)


def from_folder(name: str, file: Path, **kwargs: Any) -> nn.Module:
    config = file.parent / "config.json"
    if not config.exists():
        write_config(file.parent, name)
    return timm.create_model(f"local-dir:{file.parent}", pretrained=True, **kwargs)


WAYS = pytest.mark.parametrize("load", [from_overlay, from_checkpoint, from_folder])
Load = Callable[..., nn.Module]


def write_config(folder: Path, architecture: str, **kwargs: Any) -> None:
    config = {"architecture": architecture, "num_classes": 1000, "pretrained_cfg": {"num_classes": 1000}, **kwargs}
    (folder / "config.json").write_text(json.dumps(config))


def file_of(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def refusal(load: Load, name: str, file: Path, **kwargs: Any) -> str:
    with pytest.raises(CheckpointFormatError) as caught:
        load(name, file, **kwargs)
    message = str(caught.value)
    assert len(message) < 500, "one or two lines"
    assert "\n" not in message
    return message


@WAYS
def test_what_was_saved_comes_back(load: Load, tmp_path: Path) -> None:
    model = create(B0, **SMALL).eval()
    file = file_of(tmp_path, model.state_dict())
    assert_same_values(load(B0, file, **SMALL).eval()(images(64)), model(images(64)))


@WAYS
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 10}])
def test_another_architecture_is_named(load: Load, tmp_path: Path, kwargs: dict[str, Any]) -> None:
    file = file_of(tmp_path, create("hucorz_efficientnet_b0").state_dict())
    message = refusal(load, B1, file, **kwargs)
    assert "fits efficientnet_b0 (num_classes=1000" in message
    assert str(tmp_path) in message


def test_another_architecture_is_named_for_features(tmp_path: Path) -> None:
    file = file_of(tmp_path, create("hucorz_efficientnet_b0").state_dict())
    assert "fits efficientnet_b0" in refusal(from_overlay, B1, file, features_only=True)


@pytest.mark.parametrize("load", [from_overlay, from_checkpoint])
def test_same_shapes_but_other_padding_is_refused(load: Load, tmp_path: Path) -> None:
    file = file_of(tmp_path, create("efficientnet_b0").state_dict())
    write_config(tmp_path, "efficientnet_b0")
    message = refusal(load, B0, file)
    assert "its config.json names 'efficientnet_b0' with pad_type='', bn_eps=1e-05, the model has" in message


@pytest.mark.parametrize("load", [from_overlay, from_checkpoint])
def test_other_numerics_of_the_config_are_refused(load: Load, tmp_path: Path) -> None:
    file = file_of(tmp_path, create(B0, **SMALL).state_dict())
    write_config(tmp_path, B0, model_args={"pad_type": ""})
    assert "pad_type=''" in refusal(load, B0, file, **SMALL)


def test_the_configs_numerics_are_followed_by_local_dir(tmp_path: Path) -> None:
    file = file_of(tmp_path, create(B0, **SMALL).state_dict())
    write_config(tmp_path, B0, model_args={**SMALL, "pad_type": "", "bn_eps": 1e-5})
    model = from_folder(B0, file)
    assert model.bn1.eps == 1e-5
    assert type(model.conv_stem) is nn.Conv2d


@WAYS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(load: Load, tmp_path: Path, value: float) -> None:
    state = create(B0, **SMALL).state_dict()
    state["blocks.2.0.conv_pw.weight"].view(-1)[5] = value
    file = file_of(tmp_path, state)
    message = refusal(load, B0, file, **SMALL)
    assert message.startswith((f"{file}: ", f"{tmp_path}: "))
    assert "blocks.2.0.conv_pw.weight has 1 values that are not finite" in message


@WAYS
def test_negative_variance(load: Load, tmp_path: Path) -> None:
    state = create(B0, **SMALL).state_dict()
    state["bn1.running_var"][3] = -0.5
    assert "bn1.running_var has a negative variance (-0.5)" in refusal(load, B0, file_of(tmp_path, state), **SMALL)


@WAYS
def test_missing_tensor(load: Load, tmp_path: Path) -> None:
    state = create(B0, **SMALL).state_dict()
    del state["blocks.2.0.bn1.bias"]
    message = refusal(load, B0, file_of(tmp_path, state), **SMALL)
    assert "1 names missing (blocks.2.0.bn1.bias)" in message
    assert "incomplete" in message


@WAYS
def test_truncated_safetensors(load: Load, tmp_path: Path) -> None:
    file = file_of(tmp_path, create(B0, **SMALL).state_dict())
    file.write_bytes(file.read_bytes()[:-100])
    assert "cut or is no weight file" in refusal(load, B0, file)


@pytest.mark.parametrize("load", [from_overlay, from_checkpoint])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>404</html>", "foreign"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "foreign"),
        (pickle.dumps({"weights": Path("x")}), "no plain state_dict"),
        (b"", "cut or is no weight file"),
    ],
    ids=["html", "hdf5", "pickle", "empty"],
)
def test_foreign_files(load: Load, tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(content)
    assert message in refusal(load, B0, file)


def test_truncated_pth(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save(create(B0, **SMALL).state_dict(), file)
    file.write_bytes(file.read_bytes()[:-2000])
    assert "cut or damaged" in refusal(from_checkpoint, B0, file, **SMALL)


def test_a_pth_whose_values_begin_damaged(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save(create(B0, **SMALL).state_dict(), file)
    raw = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        raw[archive.getinfo("model/data/7").header_offset] = 0
    file.write_bytes(raw)
    assert "cut or is no weight file (Bad magic number for file header)" in refusal(from_checkpoint, B0, file, **SMALL)


@pytest.mark.parametrize("is_archive", [True, False])
def test_the_values_of_a_pth_are_read_once(is_archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.pth"
    torch.save(create(B0, **SMALL).state_dict(), file, _use_new_zipfile_serialization=is_archive)
    in_memory: list[bool] = []
    read = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, mmap=False, **k: (in_memory.append(not mmap), read(*a, mmap=mmap, **k))[1]
    )
    from_checkpoint(B0, file, **SMALL)
    assert in_memory == ([False, True, False] if is_archive else [True] * 3)  # one that is no archive cannot be mapped


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """The weights of a small B0 with five classes."""
    return file_of(tmp_path, create(B0, num_classes=5, **SMALL).state_dict())


def advised(message: str) -> dict[str, Any]:
    """Return the arguments that a message tells to pass in place of checkpoint_path."""
    (arguments,) = re.findall(r"pass (\w[^;]*\)) in place of checkpoint_path", message)
    return eval(f"dict({arguments})")


@pytest.mark.parametrize("classes", [10, 1000, 0])
def test_what_a_refused_checkpoint_advises_trains_another_classifier(five: Path, classes: int) -> None:
    message = refusal(from_checkpoint, B0, five, num_classes=classes, **SMALL)
    assert message.startswith(
        f"{five}: its classifier has 5 classes, the model's {classes}. To use it, create the model with num_classes=5; "
        f"to draw another, pass num_classes={classes}, pretrained=True, "
        if classes
        else f"{five}: it has classifier, which the model has not. To use it, create the model with num_classes=5; "
    )
    model = create(B0, **advised(message), **SMALL)
    assert model.num_classes == classes
    assert torch.equal(model.conv_head.weight, from_checkpoint(B0, five, num_classes=5, **SMALL).conv_head.weight)


def test_what_a_refused_file_advises(five: Path) -> None:
    message = refusal(from_overlay, B0, five, **SMALL)
    assert message == (
        f"{five}: its classifier has 5 classes, the model's 1000. "
        "To use it, add num_classes=5 to pretrained_cfg_overlay; to draw another, pass num_classes=1000 too"
    )
    overlay = {"file": str(five), "num_classes": 5}
    model = create(B0, pretrained=True, pretrained_cfg_overlay=overlay, **SMALL)
    assert torch.equal(model.classifier.weight, load_file(five)["classifier.weight"])
    assert create(B0, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=1000, **SMALL).num_classes == 1000


@pytest.mark.parametrize("said", [None, -1, 7])
def test_the_classes_that_are_told_are_the_files(
    five: Path, said: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    overlay: dict[str, Any] = {"file": str(five)} | ({} if said is None else {"num_classes": said})
    with caplog.at_level(logging.WARNING):
        model = create(B0, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=10, **SMALL)
        assert model.classifier.out_features == 10
        create(B0, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, **SMALL)
    assert [record.getMessage() for record in caplog.records] == [
        f"{five}: classifier not loaded: the file has 5 classes, 10 were asked for",
        f"{five}: classifier of 5 classes not loaded, as the pretrained cfg says num_classes={said or 1000}. "
        "To load it, add num_classes=5 to pretrained_cfg_overlay",
    ]


@pytest.mark.parametrize("shape", [(5, -1, 1, 1), (5, 2, -1), (10, -1), ()], ids=str)
def test_a_classifier_of_another_shape(five: Path, shape: tuple[int, ...]) -> None:
    state = load_file(five)
    state["classifier.weight"] = state["classifier.weight"].reshape(shape) if shape else torch.ones(())
    found = re.escape(str(tuple(state["classifier.weight"].shape)))
    with pytest.raises(
        CheckpointFormatError, match=rf"all fits but the head: 1 shapes differ \(first .*: {found}, exp"
    ):
        create(B0, num_classes=5, **SMALL).load_state_dict(state)


def test_weights_without_a_classifier(tmp_path: Path) -> None:
    file = file_of(tmp_path, create(B0, num_classes=0, **SMALL).state_dict())
    message = refusal(from_checkpoint, B0, file, num_classes=5, **SMALL)
    assert message.startswith(f"{file}: it has no classifier. To do without, create the model with num_classes=0; ")
    assert create(B0, **advised(message), **SMALL).num_classes == 5
    assert refusal(from_overlay, B0, file, **SMALL).endswith(
        "To do without, add num_classes=0 to pretrained_cfg_overlay; to draw one, pass num_classes=1000 too"
    )
    with pytest.raises(CheckpointFormatError, match="to draw one, pass strict=False without classifier"):
        create(B0, num_classes=5, **SMALL).load_state_dict(load_file(file))


@pytest.mark.parametrize("load", [from_overlay, from_checkpoint])
def test_weights_of_a_feature_extractor(load: Load, tmp_path: Path) -> None:
    features = create(B0, features_only=True, **SMALL)
    file = file_of(tmp_path, features.state_dict())
    message = refusal(load, B0, file, **SMALL)
    assert message == (
        f"{file}: it has no conv_head, bn2, classifier: its weights are a feature extractor's. "
        "Create the model with features_only=True, or load them with strict=False"
    )
    load(B0, file, features_only=True, **SMALL)
    assert create(B0, **SMALL).load_state_dict(load_file(file), strict=False).unexpected_keys == []


def test_a_head_for_a_feature_extractor(five: Path) -> None:
    message = refusal(from_checkpoint, B0, five, features_only=True, **SMALL)
    assert message.startswith(f"{five}: it has conv_head, bn2, classifier, which the model has not. To use it, ")
    create(B0, features_only=True, **advised(message), **SMALL)


def test_names_in_a_file_are_plain_text(tmp_path: Path) -> None:
    state = {f"\x1b[1m{name}\x1b[0m\n": value for name, value in create(B0, **SMALL).state_dict().items()}
    torch.save(state, tmp_path / "model.pth")
    message = refusal(from_checkpoint, B0, tmp_path / "model.pth", **SMALL)
    assert message.isprintable()
    assert "unknown (blocks.0.0.bn1.bias" in message


def test_what_a_pickled_model_holds_is_named(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    message = refusal(from_checkpoint, B0, tmp_path / "model.pth")
    assert "or holds torch.nn.modules.linear.Linear, which are never loaded. Save model.state_dict()" in message


def test_one_channel_from_three(tmp_path: Path) -> None:
    model = create(B0, **SMALL)
    loaded = from_overlay(B0, file_of(tmp_path, model.state_dict()), **SMALL, in_chans=1)
    assert_close(loaded.conv_stem.weight, model.conv_stem.weight.sum(1, keepdim=True), FLOAT32)


def test_a_model_with_a_stem_of_ones_own_loads_its_state() -> None:
    model = create(B0, **SMALL)
    model.conv_stem = nn.Sequential(nn.Conv2d(4, 3, 1), model.conv_stem)
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert not any(p.any() for p in model.parameters())


class Counting(nn.Identity):
    """A layer with a state of its own that is no tensor."""

    seen: Any = 0

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]


def test_extra_state_is_the_modules_own() -> None:
    one, other = create(B0, **SMALL), create(B0, **SMALL)
    for model in (one, other):
        model.bn1.drop = Counting()
    one.bn1.drop.seen = 7
    other.load_state_dict(one.state_dict())
    assert other.bn1.drop.seen == 7
    with pytest.raises(RuntimeError, match=r"Unexpected key.*bn1\.drop\._extra_state"):
        create(B0, **SMALL).load_state_dict(one.state_dict())


@pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="this torch cannot quantise")
def test_packed_parameters_of_dynamic_quantisation() -> None:
    one, other = (
        torch.ao.quantization.quantize_dynamic(create(B0, num_classes=3, **SMALL).eval(), {nn.Linear}) for _ in range(2)
    )
    nn.init.normal_(one.bn1.bias)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(images(64)), one(images(64)))


class Wrapped(Tensor):
    """A tensor that can be copied from, and little else, as quantised and distributed ones."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (Tensor.sum, torch.isfinite)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("change", [lambda v: v.to(torch.float8_e4m3fn), lambda v: v.as_subclass(Wrapped)],
                         ids=["float8", "subclass"])  # fmt: skip
def test_tensors_of_other_kinds_are_copied(change: Callable[[Tensor], Tensor]) -> None:
    one, other = create(B0, **SMALL), create(B0, **SMALL)
    nn.init.ones_(one.conv_stem.weight)
    other.load_state_dict(one.state_dict() | {"conv_stem.weight": change(one.conv_stem.weight.detach())})
    assert torch.equal(other.conv_stem.weight, one.conv_stem.weight)
    with pytest.raises(CheckpointFormatError, match=r"1 shapes differ \(first conv_stem\.weight"):
        other.load_state_dict(one.state_dict() | {"conv_stem.weight": change(torch.ones(3))})


def test_what_is_no_tensor_is_named() -> None:
    model = create(B0, **SMALL)
    with pytest.raises(CheckpointFormatError, match=r"1 entries are no tensors \(conv_stem\.weight\)"):
        model.load_state_dict(model.state_dict() | {"conv_stem.weight": [1.0]})
    with pytest.raises(CheckpointFormatError, match=r"2 entries are no tensors \(epoch, state_dict\)"):
        model.load_state_dict({"state_dict": model.state_dict(), "epoch": 3})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"epoch"'):
        model.load_state_dict(model.state_dict() | {"epoch": 3})


def test_load_state_dict_leaves_the_model_as_it_was_when_it_refuses() -> None:
    model, other = create(B0, **SMALL), create(B0, **SMALL)
    state = {key: value + 1 for key, value in other.state_dict().items()}
    state["bn2.bias"] = torch.full_like(state["bn2.bias"], float("nan"))
    with pytest.raises(CheckpointFormatError, match=r"bn2\.bias"):
        model.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
