"""Networks inside larger ones, with a head and without: found by themselves, or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import timm_effnet_ext  # noqa: F401  registers the models
from tests.closeness import FLOAT64, assert_close
from tests.convert._sources import tiny_variables
from tests.convert.readers.pytorch._files import folder
from timm_effnet_ext.convert.dialects.pytorch import LUKEMELAS, TIMM, TORCHVISION
from timm_effnet_ext.convert.inspection import inspect_source
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, NameMappingError, VerificationError
from timm_effnet_ext.predict.classifier import load_classifier

HEAD = ("conv_head.", "bn2.", "classifier.")
NO_HEAD = "feature maps: there is no head (conv_head, bn2) and no classifier"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a conversion of a U-Net with an encoder of PyTorch's numerics wrote."""
    out = tmp_path_factory.mktemp("encoder") / "out"
    source = folder() / "unet"
    convert(source / "unet.pth", out, Options(model="efficientnet_b0", reference=source / "reference.npz"))
    return out


def test_an_encoder_without_head_gives_the_features_of_the_original(encoder: Path) -> None:
    model: Any = timm.create_model(f"local-dir:{encoder}", features_only=True, pretrained=True).eval().double()
    with np.load(folder() / "unet" / "reference.npz") as saved:
        x = torch.from_numpy(saved["input"]).permute(0, 3, 1, 2).double()
    with torch.inference_mode():
        found = [one.mean((2, 3)) for one in model(x)]
    with np.load(folder() / "unet" / "features.npz") as saved:
        assert len(saved.files) == len(found)
        for name, one in zip(saved.files, found, strict=True):
            assert_close(one, torch.from_numpy(saved[name]), FLOAT64)


def test_its_folder_says_that_it_has_no_head(encoder: Path) -> None:
    config = json.loads((encoder / "config.json").read_text())
    assert (config["num_classes"], config["model_args"]["features_only"]) == (0, True)
    assert NO_HEAD in (encoder / "README.md").read_text()
    again = inspect_source(encoder)
    assert (again.classes and again.classes.text, again.problem) == (NO_HEAD, None)
    record = json.loads((encoder / "conversion.json").read_text())
    assert record["counts"]["outside_the_model"] > 0


def test_it_is_no_classifier(encoder: Path) -> None:
    assert not hasattr(timm.create_model(f"local-dir:{encoder}", pretrained=True), "classifier")
    with pytest.raises(CheckpointFormatError, match="it has no conv_head, bn2"):
        timm.create_model(f"local-dir:{encoder}", pretrained=True, features_only=False, num_classes=3)
    with pytest.raises(EffNetExtError, match="has no classifier"):
        load_classifier(str(encoder))


def test_without_a_reference_it_is_tried_on_photos(tmp_path: Path) -> None:
    source = folder() / "unet" / "unet.pth"
    report = convert(source, tmp_path / "out", Options(model="efficientnet_b0"))
    assert [proof.kind for proof in report.proofs] == ["plausibility"]


def test_another_padding_is_another_network(tmp_path: Path) -> None:
    options = Options(model="tf_efficientnet_b0", reference=folder() / "unet" / "reference.npz")
    with pytest.raises(VerificationError, match="largest difference of outputs"):
        convert(folder() / "unet" / "unet.pth", tmp_path / "out", options)


def test_without_a_name_its_numerics_are_asked_for() -> None:
    assert inspect_source(folder() / "unet" / "unet.pth").problem is None  # scaled: this package alone has such


def _state(values: dict[str, np.ndarray], prefix: str, *without: str) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}{name}": torch.from_numpy(value) for name, value in values.items() if not name.startswith(without)
    }


@pytest.mark.parametrize(
    ("arch", "dialect", "head"),
    [
        ("efficientnet_b0", TIMM, ("conv_head.", "bn2.")),
        ("efficientnetv2_s", TIMM, ("conv_head.", "bn2.")),
        ("efficientnet_b0", LUKEMELAS, ("_conv_head.", "_bn1.")),
        ("efficientnetv2_s", TORCHVISION, ("features.8.",)),
        ("efficientnet_b0", TORCHVISION, ("features.8.",)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "net.encoder."])
def test_a_network_without_head_is_one_in_every_dialect(
    arch: str, dialect: Any, head: tuple[str, ...], prefix: str, tmp_path: Path
) -> None:
    stages = 7 if arch == "efficientnet_b0" else 6
    head = tuple(name.replace("8", str(stages + 1)) for name in head)
    values = tiny_variables(arch, dialect, "", num_classes=0, width_mult=0.25)
    torch.save(_state(values, prefix, *head), tmp_path / "trunk.pth")
    report = convert(tmp_path / "trunk.pth", tmp_path / "out", Options(verify=False))
    assert "without head" in report.reason
    assert report.model_args["features_only"] is True
    names = {row["torch"] for row in report.mapping}
    assert not any(name.startswith(HEAD) for name in names)
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).feature_info.channels()


def test_a_dense_layer_behind_a_network_without_head_is_not_its_classifier(tmp_path: Path) -> None:
    values = tiny_variables("efficientnet_b0", TIMM, "", num_classes=0, width_mult=0.25)
    channels = max(value.shape[0] for name, value in values.items() if "conv_pwl.weight" in name)
    state = _state(values, "net.", "conv_head.", "bn2.")
    state |= {"fc.weight": torch.ones(3, channels), "fc.bias": torch.ones(3)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        NameMappingError, match=r"2 variables are left over .*fc\.bias \(\d+,\), fc\.weight \(\d+, \d+\)"
    ):
        convert(tmp_path / "other.pth", tmp_path / "out", Options(verify=False))


def test_of_two_encoders_one_is_named(tmp_path: Path) -> None:
    values = tiny_variables("efficientnet_b0", TIMM, "", num_classes=0, width_mult=0.25)
    without = ("conv_head.", "bn2.")
    both = _state(values, "student.", *without) | _state(values, "teacher.", *without)
    torch.save(both, tmp_path / "both.pth")
    with pytest.raises(NameMappingError, match=r"Say which with --prefix (student|teacher)\."):
        convert(tmp_path / "both.pth", tmp_path / "out", Options(verify=False))
    report = convert(tmp_path / "both.pth", tmp_path / "out", Options(verify=False, prefix="teacher"))
    assert report.counts["other_model"] > 0


# --headless


@pytest.mark.parametrize("dialect", [TIMM, TORCHVISION, LUKEMELAS])
@pytest.mark.parametrize(
    "head",
    [
        {"classifier.1.weight": (8, 40), "classifier.1.bias": (8,),
         "classifier.4.weight": (3, 8), "classifier.4.bias": (3,)},
        {"fc.weight": (64, 40), "fc.bias": (64,), "arcface.weight": (10, 64)},
        {"age.weight": (1, 40), "age.bias": (1,), "kind.weight": (3, 40), "kind.bias": (3,)},
        {"neck.weight": (40,), "neck.running_mean": (40,), "head.weight": (3, 40), "head.bias": (3,)},
    ],
)  # fmt: skip
def test_a_head_that_timm_cannot_hold_is_left_out_by_the_users_word(
    dialect: Any, head: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    values = tiny_variables("efficientnet_b0", dialect, "", num_classes=0, width_mult=0.25)
    state = _state(values, "") | {name: torch.ones(shape) for name, shape in head.items()}
    torch.save(state, tmp_path / "own.pth")
    with pytest.raises(NameMappingError, match="--headless leaves it out"):
        convert(tmp_path / "own.pth", tmp_path / "out", Options(verify=False))
    assert "--headless leaves it out" in str(inspect_source(tmp_path / "own.pth").problem)
    report = convert(tmp_path / "own.pth", tmp_path / "out", Options(verify=False, headless=True))
    assert (report.num_classes, report.problem_type) == (0, None)
    assert report.counts["outside_the_model"] == len(head)
    assert any(note.startswith(f"{len(head)} variables outside the network were left out: ") for note in report.notes)
    written = {row["source"] for row in report.mapping}
    assert written == values.keys()


def test_a_classifier_is_left_out_by_the_users_word_too(tmp_path: Path) -> None:
    source = folder() / "plain"
    report = convert(source, tmp_path / "out", Options(verify=False, headless=True))
    assert (report.num_classes, report.counts["outside_the_model"]) == (0, 2)
    assert "config.json names 3 classes, 0 to 2, the classifier has 0: left out" in report.notes


@pytest.mark.parametrize("name", ["blocks.1.0.attention.weight", "conv_stem.bias", "blocks.0.0.bn3.weight"])
def test_what_belongs_to_the_network_is_never_left_out(name: str, tmp_path: Path) -> None:
    values = tiny_variables("efficientnet_b0", TIMM, "", num_classes=0, width_mult=0.25)
    torch.save({**_state(values, ""), name: torch.ones(4)}, tmp_path / "own.pth")
    with pytest.raises(NameMappingError):
        convert(tmp_path / "own.pth", tmp_path / "out", Options(verify=False, headless=True))


# Classes of the user's own


def _own(kind: str, folder_: Path, **arguments: Any) -> Path:
    """Write what huggingface_hub's PyTorchModelHubMixin does: the weights, and the constructor's arguments."""
    values = tiny_variables("efficientnet_b0", TIMM, "", num_classes=3 if kind == "net." else 0, width_mult=0.25)
    state = _state(values, kind)
    if kind != "net.":
        features = values["conv_head.weight"].shape[0]
        state |= {"fc.weight": torch.ones(3, features), "fc.bias": torch.ones(3)}
    folder_.mkdir(exist_ok=True)
    save_file(state, folder_ / "model.safetensors")
    (folder_ / "config.json").write_text(json.dumps(arguments))
    return folder_


@pytest.mark.parametrize("kind", ["net.", "backbone."])
def test_arguments_of_a_class_of_ones_own_name_the_model_and_its_classes(kind: str, tmp_path: Path) -> None:
    arguments = {"backbone": "efficientnet_b0", "labels": ["x", "y", "z"], "mean": 0.5, "std": "imagenet", "n": 3}
    report = convert(_own(kind, tmp_path / "own", **arguments), tmp_path / "out", Options(verify=False))
    assert report.model_args["pad_type"] == ""  # timm's model of that name pads so
    assert report.label_names == ("x", "y", "z")
    assert report.origins["label_names"] == "config.json: labels"
    assert report.origins["pretrained_cfg.mean"].startswith("assumed")


def test_placeholders_are_no_names_there_either(tmp_path: Path) -> None:
    source = _own("net.", tmp_path / "own", class_names=["LABEL_0", "LABEL_1", "LABEL_2"])
    assert convert(source, tmp_path / "out", Options(verify=False)).label_names is None


def test_fastais_head_of_two_layers_is_left_out_by_the_users_word(tmp_path: Path) -> None:
    values = tiny_variables("efficientnet_b0", TIMM, "", num_classes=0, width_mult=0.25)
    norms = {"1.2.weight": (40,), "1.2.running_var": (40,), "1.6.weight": (8,)}
    head: dict[str, tuple[int, ...]] = {**norms, "1.4.weight": (8, 40), "1.8.weight": (3, 8)}
    state = _state(values, "0.model.") | {name: torch.ones(shape) for name, shape in head.items()}
    torch.save({"model": state, "opt": {"state": {}}}, tmp_path / "learner.pth")
    with pytest.raises(
        NameMappingError, match=r"1\.4\.weight \(8, 40\), 1\.8\.weight \(3, 8\)\. .*--headless leaves it out"
    ):
        convert(tmp_path / "learner.pth", tmp_path / "out", Options(verify=False))
    report = convert(tmp_path / "learner.pth", tmp_path / "out", Options(verify=False, headless=True))
    assert "under '0.model.'" in report.reason
    assert report.counts["outside_the_model"] == len(head)
