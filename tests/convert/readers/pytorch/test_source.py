"""PyTorch's files: every layout becomes the network that its own code builds, no pickle is trusted."""

from __future__ import annotations

import argparse
import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import timm_effnet_ext  # noqa: F401  registers the models
from tests.closeness import FLOAT64, assert_close
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.readers.pytorch.source import read_torch, weight_file
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, NameMappingError, VerificationError

UNVERIFIED = Options(verify=False)
SMALL = {"num_classes": 3, "width_mult": 0.1, "depth_mult": 0.1}
# torchvision takes its scale from its tables: multipliers of V1 and of every other kind of block.
TORCHVISION = {
    "efficientnet_b0": {"pad_type": "", "bn_eps": 1e-5},
    "efficientnet_v2_s": {"pad_type": ""},
}


def _trained(model: nn.Module) -> nn.Module:
    """Return the model with weights and statistics that are nobody's default."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, middle, spread in (
                    (module.weight, 1.0, 0.2), (module.bias, 0.0, 0.2),
                    (module.running_mean, 0.0, 0.2), (module.running_var, 0.05, 0.02),
                ):  # fmt: skip
                    tensor.copy_(middle + spread * torch.rand(tensor.shape, generator=generator))
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(generator=generator)
    return model.eval()


def _check_same_outputs(model: nn.Module, folder: Path) -> None:
    converted = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().double()
    model = copy.deepcopy(model).double()  # float32's roundings would need a tolerance of 1e-3
    for size in ((48, 48), (43, 57)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)).double()
        with torch.inference_mode():
            expected, found = model(images), converted(images)
        assert expected.std() > 1e-3  # a network that says the same of everything would agree with anyone
        assert_close(found, expected, FLOAT64)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_files_compute_what_torchvision_does(name: str, tmp_path: Path) -> None:
    model = _trained(torchvision.models.get_model(name, num_classes=3))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    report = convert(tmp_path / "model.pth", tmp_path / "out", UNVERIFIED)
    assert report.dialect == "torchvision"
    assert report.model_args == TORCHVISION[name]
    _check_same_outputs(model, tmp_path / "out")


def test_torchvision_preprocessing_is_that_of_its_weights() -> None:
    from timm_effnet_ext.arch.rows import ARCHS
    from timm_effnet_ext.convert.dialects.pytorch import by_torchvision

    for name, weights in (
        ("efficientnet_b0", torchvision.models.EfficientNet_B0_Weights.DEFAULT),
        ("efficientnet_b4", torchvision.models.EfficientNet_B4_Weights.DEFAULT),
        ("efficientnetv2_s", torchvision.models.EfficientNet_V2_S_Weights.DEFAULT),
        ("efficientnetv2_l", torchvision.models.EfficientNet_V2_L_Weights.DEFAULT),
    ):
        theirs, ours = weights.transforms(), by_torchvision(ARCHS[name]).cfg
        assert ours["input_size"] == ours["test_input_size"] == (3, *theirs.crop_size * 2)
        assert math.floor(theirs.crop_size[0] / ours["crop_pct"]) == theirs.resize_size[0]
        assert ours["interpolation"] == theirs.interpolation.value
        assert (list(ours["mean"]), list(ours["std"])) == (list(theirs.mean), list(theirs.std))


def _save(value: Any, path: Path, kind: str) -> Path:
    if kind == "safetensors":
        save_file(value, path)
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.fixture
def ours() -> nn.Module:
    return _trained(timm.create_model("hucorz_efficientnetv2_b0", **SMALL))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_file_formats_do_not_matter(ours: nn.Module, kind: str, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in ours.state_dict().items()}
    report = convert(_save(state, tmp_path / "model", kind), tmp_path / "out", UNVERIFIED)
    assert report.dialect == "timm"
    _check_same_outputs(ours, tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_other_precisions_are_read(ours: nn.Module, dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    rounded = {n: v.to(dtype) if v.is_floating_point() else v for n, v in ours.state_dict().items()}
    convert(_save(rounded, tmp_path / "model", kind), tmp_path / "out", UNVERIFIED)
    ours.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in rounded.items()})
    _check_same_outputs(ours, tmp_path / "out")


@pytest.mark.parametrize(("raw_key", "ema_key"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_training_checkpoints_have_both_weights(ours: nn.Module, raw_key: str, ema_key: str, tmp_path: Path) -> None:
    raw = ours.state_dict()
    ema = {f"module.{name}": value / 2 if value.is_floating_point() else value for name, value in raw.items()}
    saved = {
        raw_key: raw, ema_key: {**ema, "n_averaged": torch.tensor(3)}, "epoch": 3, "arch": "hucorz_efficientnetv2_b0",
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(1.0)}}, "param_groups": []},
    }  # fmt: skip
    source = _save(saved, tmp_path / "last.pth.tar", "zip")
    report = convert(source, tmp_path / "ema", UNVERIFIED)
    assert (report.weights, report.counts["from_ema"]) == ("ema", report.counts["used"])
    assert (report.counts["optimizer_slots"], report.counts["counters"]) == (2, 2)
    assert convert(source, tmp_path / "raw", Options(weights="raw", verify=False)).weights == "raw"
    _check_same_outputs(ours, tmp_path / "raw")
    halved = {name: ema[f"module.{name}"] for name in raw}
    ours.load_state_dict(halved)
    _check_same_outputs(ours, tmp_path / "ema")


@pytest.mark.parametrize(
    "saved",
    [
        {"ema": {"module": "AVERAGES", "updates": 3}, "net": "RAW"},
        {"ema_state_dict": "AVERAGES", "model_state_dict": "RAW", "steps": 3},
        {"model_ema_state_dict": "AVERAGES", "state_dict": "RAW"},
        {"ema": "AVERAGES"},
    ],
)
def test_averages_are_found_under_other_names(saved: dict[str, Any], ours: nn.Module, tmp_path: Path) -> None:
    raw = ours.state_dict()
    ema = {name: value / 2 if value.is_floating_point() else value for name, value in raw.items()}

    weights = {"RAW": raw, "AVERAGES": ema}

    def filled(value: Any) -> Any:
        return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else weights.get(value, value)

    report = convert(_save(filled(saved), tmp_path / "last.pth", "zip"), tmp_path / "out", UNVERIFIED)
    assert report.weights == "ema"
    ours.load_state_dict(ema)
    _check_same_outputs(ours, tmp_path / "out")


@pytest.mark.parametrize("program", ["Lightning", "mmengine"])
def test_averages_that_are_saved_as_state_dict_are_averages(program: str, ours: nn.Module, tmp_path: Path) -> None:
    average = ours.state_dict()
    trained = {name: value * 2 if value.is_floating_point() else value for name, value in average.items()}
    apart: dict[str, Any] = {
        "Lightning": {"current_model_state": trained, "averaging_state": {"n_averaged": torch.tensor(3)}},
        "mmengine": {"ema_state_dict": {f"module.{k}": v for k, v in trained.items()} | {"steps": torch.tensor(3)}},
    }[program]
    source = _save({"state_dict": average, **apart}, tmp_path / "last.pth", "zip")
    report = convert(source, tmp_path / "ema", UNVERIFIED)
    assert (report.weights, report.counts["from_ema"]) == ("ema", report.counts["used"])
    assert not any("left alone" in note for note in report.notes)
    _check_same_outputs(ours, tmp_path / "ema")
    convert(source, tmp_path / "raw", Options(weights="raw", verify=False))
    ours.load_state_dict(trained)
    _check_same_outputs(ours, tmp_path / "raw")


@pytest.mark.parametrize("name", ["head", "classifier.1"])
def test_a_classifier_of_ones_own_is_found(name: str, ours: nn.Module, tmp_path: Path) -> None:
    state = {key.replace("classifier.", f"{name}."): value for key, value in ours.state_dict().items()}
    convert(_save(state, tmp_path / "last.pth", "zip"), tmp_path / "out", UNVERIFIED)
    _check_same_outputs(ours, tmp_path / "out")


def test_other_entries_with_the_same_variables_are_named(ours: nn.Module, tmp_path: Path) -> None:
    state = ours.state_dict()
    source = _save({"state_dict": state, "swa": dict(state)}, tmp_path / "last.pth", "zip")
    report = convert(source, tmp_path / "out", UNVERIFIED)
    assert "the entry 'swa' has the same variables and was left alone" in report.notes


@pytest.mark.parametrize("average", [{"decay": 0.9, "shadow_params": [torch.ones(2)]}, [torch.ones(2)]])
def test_averages_without_names_are_named(average: Any, ours: nn.Module, tmp_path: Path) -> None:
    source = _save({"state_dict": ours.state_dict(), "ema": average}, tmp_path / "last.pth", "zip")
    report = convert(source, tmp_path / "out", UNVERIFIED)
    assert "the entry 'ema' has no tensors by the names of variables and was left alone" in report.notes
    assert "no EMA weights were found: the raw ones were taken" in report.notes


@pytest.mark.parametrize(
    "arch", ["efficientnet_lite0", "efficientnet_lite0.ra_in1k", "hf-hub:timm/efficientnet_lite0.ra_in1k"]
)
def test_a_name_of_timms_own_without_tf_means_symmetric_padding(arch: str, tmp_path: Path) -> None:
    model = _trained(timm.create_model("efficientnet_lite0", num_classes=3))
    torch.save({"state_dict": model.state_dict(), "arch": arch}, tmp_path / "model.pth")
    report = convert(tmp_path / "model.pth", tmp_path / "out", UNVERIFIED)
    assert not any("were assumed" in note for note in report.notes)
    _check_same_outputs(model, tmp_path / "out")


@pytest.mark.parametrize("arch", [None, "local-dir:efficientnet_b0", "mine"])
def test_assumed_numerics_of_a_scaled_network_are_said(arch: str | None, ours: nn.Module, tmp_path: Path) -> None:
    state = dict(ours.state_dict())  # without the metadata in which our models say what they are
    source = _save({"state_dict": state, "arch": arch}, tmp_path / "last.pth", "zip")
    report = convert(source, tmp_path / "out", UNVERIFIED)
    assert any("epsilon 1e-3 were assumed, as hucorz_efficientnetv2_b0 has them" in note for note in report.notes)
    assert report.origins["architecture"].startswith("all ")


PLAIN = {
    "bare": lambda state: state,
    "under a prefix": lambda state: {f"model.{name}": value for name, value in state.items()},
    "in a table of its own": lambda state: {"weights": state, "epoch": 3},
    "with another arch": lambda state: {"state_dict": state, "arch": "mine"},
}
STATED = {
    "Lightning": lambda state, name: {
        "state_dict": {f"net.{key}": value for key, value in state.items()}, "hyper_parameters": {"model_name": name}
    },
    "a table beside": lambda state, name: {"model_state": state, "config": {"network": {"backbone": name}}},
    "train.py": lambda state, name: {"state_dict": state, "arch": name},
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    """timm's own model whose names and shapes `tf_efficientnet_lite0` has too."""
    return _trained(timm.create_model("efficientnet_lite0", num_classes=3))


@pytest.mark.parametrize("saved", PLAIN)
def test_numerics_that_nobody_states_are_asked_for(saved: str, plain: nn.Module, tmp_path: Path) -> None:
    source = _save(PLAIN[saved](plain.state_dict()), tmp_path / "last.pth", "zip")
    with pytest.raises(
        NameMappingError, match=r"efficientnet_lite0 \(PyTorch's .* and tf_efficientnet_lite0 .*--model"
    ):
        convert(source, tmp_path / "out", UNVERIFIED)
    convert(source, tmp_path / "out", Options(verify=False, model="efficientnet_lite0"))
    _check_same_outputs(plain, tmp_path / "out")
    convert(source, tmp_path / "tf", Options(verify=False, model="tf_efficientnet_lite0"))
    twin = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    twin.load_state_dict(plain.state_dict())
    _check_same_outputs(twin, tmp_path / "tf")


def test_a_name_that_the_weights_do_not_fit_is_said_where_numerics_are_asked_for(
    plain: nn.Module, tmp_path: Path
) -> None:
    source = _save(STATED["Lightning"](plain.state_dict(), "tf_efficientnet_b1"), tmp_path / "last.ckpt", "zip")
    with pytest.raises(NameMappingError, match=r"\. hyper_parameters\.model_name says tf_efficientnet_b1\. Say it: "):
        convert(source, tmp_path / "out", UNVERIFIED)


@pytest.mark.parametrize("saved", STATED)
@pytest.mark.parametrize("name", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_numerics_that_are_stated_are_taken(saved: str, name: str, plain: nn.Module, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    model.load_state_dict(plain.state_dict())
    source = _save(STATED[saved](plain.state_dict(), name), tmp_path / "last.ckpt", "zip")
    report = convert(source, tmp_path / "out", UNVERIFIED)
    assert not any("padding" in note for note in report.notes)
    _check_same_outputs(model, tmp_path / "out")


def test_a_name_of_another_architecture_is_refused(plain: nn.Module, tmp_path: Path) -> None:
    source = _save({"state_dict": plain.state_dict(), "arch": "tf_efficientnet_b3"}, tmp_path / "last.pth", "zip")
    with pytest.raises(NameMappingError, match=r"arch says tf_efficientnet_b3, but the weights fit efficientnet_lite0"):
        convert(source, tmp_path / "out", UNVERIFIED)


def test_a_relative_is_refused_by_its_shape_and_by_its_name(tmp_path: Path) -> None:
    model = timm.create_model("efficientnetv2_rw_t", num_classes=3)
    for name, saved in (
        ("bare", model.state_dict()),
        ("named", {"model": model.state_dict(), "arch": "efficientnetv2_rw_t"}),
    ):
        with pytest.raises(NameMappingError, match="efficientnetv2_rw_t"):
            convert(_save(saved, tmp_path / name, "zip"), tmp_path / "out", UNVERIFIED)


@pytest.mark.parametrize(
    ("name", "native"),
    [("torchvision", "efficientnet_b0"), ("timm", "tf_efficientnet_b0"), ("eps", "efficientnet_b0")],
)
def test_timm_native_is_timms_model_with_the_same_numerics(name: str, native: str, tmp_path: Path) -> None:
    if name == "torchvision":
        model = _trained(torchvision.models.efficientnet_b0(num_classes=3))
        saved: dict[str, Any] = model.state_dict()
    else:
        model = _trained(timm.create_model(native, num_classes=3, **({"bn_eps": 1e-4} if name == "eps" else {})))
        args = argparse.Namespace(model=native, bn_eps=1e-4 if name == "eps" else None)
        saved = {"state_dict": model.state_dict(), "arch": native, "args": args}
    report = convert(_save(saved, tmp_path / "m.pth", "zip"), tmp_path / "out", Options(verify=False, timm_native=True))
    assert report.architecture == native
    assert dict(report.model_args) == ({"bn_eps": 1e-4} if name == "eps" else {})
    assert type(timm.create_model(f"local-dir:{tmp_path / 'out'}")).__module__.startswith("timm.models")
    _check_same_outputs(model, tmp_path / "out")


def test_what_lies_outside_a_network_is_left_out_and_named(ours: nn.Module, tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in ours.state_dict().items()}
    outside = {
        "criterion.weight": torch.ones(3), "loss_fn.pos_weight": torch.ones(3),
        "train_acc.tp": torch.zeros(3, 3).long(),
        "decoder.conv.weight": torch.ones(4, 4, 3, 3), "initted": torch.tensor(True),
    }  # fmt: skip
    report = convert(_save({**state, **outside}, tmp_path / "last.ckpt", "zip"), tmp_path / "out", UNVERIFIED)
    assert report.counts["outside_the_model"] == len(outside)
    (note,) = [note for note in report.notes if "outside 'model.'" in note]
    assert note == f"5 variables outside 'model.' were left out: {', '.join(sorted(outside))}"
    _check_same_outputs(ours, tmp_path / "out")


def test_an_encoder_is_complete_without_classifier_beside_a_decoder(tmp_path: Path) -> None:
    model = timm.create_model("hucorz_efficientnetv2_b0", **{**SMALL, "num_classes": 0})
    state = {f"encoder.{name}": value for name, value in model.state_dict().items()}
    decoder = {"decoder.conv.weight": torch.ones(4, 4, 3, 3), "decoder.bn.weight": torch.ones(4)}
    report = convert(_save({**state, **decoder}, tmp_path / "unet.pth", "zip"), tmp_path / "out", UNVERIFIED)
    assert (report.num_classes, report.counts["outside_the_model"]) == (0, 2)


@pytest.mark.parametrize("head", ["one", "two", "neck"])
def test_a_head_outside_a_network_is_its_classifier_or_a_doubt(head: str, ours: nn.Module, tmp_path: Path) -> None:
    own = {"weight": ours.classifier.weight, "bias": ours.classifier.bias}
    state = {f"backbone.{name}": value for name, value in ours.state_dict().items() if "classifier" not in name}
    state |= {f"head.{leaf}": value for leaf, value in own.items()} | {"criterion.weight": torch.ones(3)}
    width = ours.classifier.in_features
    more = {
        "one": {},
        "two": {"fc.weight": torch.ones(width, width), "fc.bias": torch.ones(width)},
        "neck": {"neck.weight": torch.ones(width), "neck.bias": torch.ones(width)},
    }[head]
    source = _save({**state, **more}, tmp_path / "last.ckpt", "zip")
    if head == "one":
        report = convert(source, tmp_path / "out", UNVERIFIED)
        assert report.reason.endswith("the classifier being head.bias, head.weight")
        _check_same_outputs(ours, tmp_path / "out")
    else:
        with pytest.raises(
            NameMappingError, match=r"are left over after .* head\.bias \(\d+,\), head\.weight \(\d+, \d+\)"
        ):
            convert(source, tmp_path / "out", UNVERIFIED)


@pytest.mark.parametrize("prefix", ["ema_model", "ema_model."])
def test_of_two_networks_the_prefix_says_which(prefix: str, ours: nn.Module, tmp_path: Path) -> None:
    raw = ours.state_dict()
    ema = {name: value / 2 if value.is_floating_point() else value for name, value in raw.items()}
    both = {f"model.{n}": v for n, v in raw.items()} | {f"ema_model.{n}": v for n, v in ema.items()}
    source = _save({**both, "initted": torch.tensor(True), "step": torch.tensor(3)}, tmp_path / "last.pt", "zip")
    with pytest.raises(NameMappingError, match=r"fits 2 different models: .* under .* --prefix \S*model\. or --prefix"):
        convert(source, tmp_path / "out", UNVERIFIED)
    with pytest.raises(
        NameMappingError, match=r"--prefix net: no network lies there, but under 'ema_model\.', 'model\.'"
    ):
        convert(source, tmp_path / "out", Options(verify=False, prefix="net"))
    report = convert(source, tmp_path / "out", Options(verify=False, prefix=prefix))
    assert (report.counts["other_model"], report.counts["outside_the_model"]) == (
        len(report.mapping),
        len(raw) - len(report.mapping) + 2,
    )
    ours.load_state_dict(ema)
    _check_same_outputs(ours, tmp_path / "out")


def test_tables_of_several_networks_become_prefixes(ours: nn.Module, tmp_path: Path) -> None:
    student = ours.state_dict()
    teacher = timm.create_model("hucorz_efficientnet_lite0", **SMALL).state_dict()
    source = _save({"student": student, "teacher": teacher, "epoch": 1}, tmp_path / "last.pth", "zip")
    report = convert(source, tmp_path / "out", Options(verify=False, prefix="student"))
    assert report.counts["counters"] == 1
    _check_same_outputs(ours, tmp_path / "out")


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_a_torchscript_archive_is_converted(kind: str, tmp_path: Path) -> None:
    model = _trained(torchvision.models.efficientnet_b0(num_classes=3))
    scripted = torch.jit.script(model) if kind == "script" else torch.jit.trace(model, torch.ones(1, 3, 64, 64))
    scripted.save(tmp_path / "model.pt")
    report = convert(tmp_path / "model.pt", tmp_path / "out", UNVERIFIED)
    assert (report.format, report.dialect) == ("TorchScript archive", "torchvision")
    _check_same_outputs(model, tmp_path / "out")


def test_what_stands_in_a_state_dict_and_is_no_tensor_is_counted(ours: nn.Module, tmp_path: Path) -> None:
    state = {**ours.state_dict(), "_extra_state": {"a": 1}, "blocks._extra_state": b"x"}
    report = convert(_save({"state_dict": state}, tmp_path / "last.pth", "zip"), tmp_path / "out", UNVERIFIED)
    assert report.counts["metadata"] == 2
    _check_same_outputs(ours, tmp_path / "out")


# Labels, problem type and preprocessing


@pytest.mark.parametrize(
    "config",
    [
        {"label_names": ["a", "b", "c"]},
        {"label_names": {"0": "a", "2": "c", "1": "b"}},
        {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0}},
        {"pretrained_cfg": {"label_names": ["a", "b", "c"]}},
        {"labels": ["a", "b", "c"]},
    ],
)
def test_labels_and_problem_type_of_a_folder_are_kept(config: dict[str, Any], ours: nn.Module, tmp_path: Path) -> None:
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    said = {"problem_type": "multi_label_classification", "label_descriptions": {"a": "ant"}, "model_args": None}
    (tmp_path / "config.json").write_text(json.dumps({**config, **said}))
    report = convert(tmp_path, tmp_path / "out", UNVERIFIED)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["label_names"], written["problem_type"]) == (["a", "b", "c"], "multi_label_classification")
    assert written["label_descriptions"] == {"a": "ant"}
    assert report.origins["label_names"] == report.origins["problem_type"] == "config.json"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`logits.sigmoid()` (`multi_label_classification`)" in card
    assert "0: a, 1: b, 2: c" in card
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert model.pretrained_cfg["label_names"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"problem_type": "guess"}, "problem_type makes no sense: 'guess'"),
        ({"label_names": "abc"}, "label_names has names that are no text"),
        ({"label_names": [1, 2, 3]}, "label_names has names that are no text"),
        ({"id2label": {"x": "a"}}, "id2label is neither a list of names"),
        ({"label_names": 5}, "label_names is neither a list of names"),
    ],
)
def test_labels_that_make_no_sense_are_named(
    config: dict[str, Any], message: str, ours: nn.Module, tmp_path: Path
) -> None:
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointFormatError, match=rf"config\.json: {message}"):
        convert(tmp_path, tmp_path / "out", UNVERIFIED)


def test_class_names_of_a_run_reach_the_folder(ours: nn.Module, tmp_path: Path) -> None:
    names = ["1", "2", "10"]
    args = argparse.Namespace(data_dir="gone", class_map="", train_split="train", dataset="", model="x")
    saved = {"state_dict": ours.state_dict(), "arch": "hucorz_efficientnetv2_b0", "args": args}
    source = _save(saved, tmp_path / "model_best.pth.tar", "zip")
    report = convert(source, tmp_path / "unknown", UNVERIFIED)
    assert report.label_names is None
    assert any("class names unknown: the data folder 'gone'" in note for note in report.notes)
    (tmp_path / "class_names.txt").write_text("\n".join(names))
    report = convert(source, tmp_path / "out", UNVERIFIED)
    assert list(report.label_names or ()) == names
    assert report.origins["label_names"] == "class_names.txt beside it"
    with pytest.raises(EffNetExtError, match=r"another order than class_names\.txt beside it has them"):
        convert(source, tmp_path / "wrong", Options(verify=False, label_names=["1", "10", "2"]))


def test_what_train_py_left_to_the_cfg_of_its_model_is_taken_from_there(tmp_path: Path) -> None:
    model = _trained(timm.create_model("tf_efficientnetv2_b0", num_classes=3))
    args = argparse.Namespace(
        model="tf_efficientnetv2_b0", img_size=64, mean=None, std=None, interpolation="", crop_pct=None
    )
    saved = {"state_dict": model.state_dict(), "arch": "tf_efficientnetv2_b0", "args": args}
    report = convert(_save(saved, tmp_path / "last.pth.tar", "zip"), tmp_path / "out", UNVERIFIED)
    cfg, theirs = report.pretrained_cfg, model.pretrained_cfg
    for name in ("mean", "std", "crop_pct", "interpolation", "crop_mode"):
        assert cfg[name] == theirs[name] or list(cfg[name]) == list(theirs[name]), name
        assert report.origins[f"pretrained_cfg.{name}"] == "train.py's arguments"
    assert tuple(cfg["input_size"]) == (3, 64, 64)
    assert not any("assumed" in note for note in report.notes)


@pytest.mark.parametrize("has_args", [True, False])
def test_the_cfg_that_our_model_was_made_for_is_known(has_args: bool, tmp_path: Path) -> None:
    overlay = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.9}
    model = timm.create_model("hucorz_efficientnetv2_b0", pretrained_cfg_overlay=overlay, **SMALL)
    args = argparse.Namespace(model="local-dir:mine", img_size=64, mean=None, std=None, crop_pct=0.8, interpolation="")
    saved = {"state_dict": model.state_dict(), "arch": args.model, **({"args": args} if has_args else {})}
    report = convert(_save(saved, tmp_path / "last.pth.tar", "zip"), tmp_path / "out", UNVERIFIED)
    assert tuple(report.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    assert report.pretrained_cfg["crop_pct"] == (0.8 if has_args else 0.9)
    assumed = [path for path, who in report.origins.items() if who.startswith("assumed, as the cfg of the model")]
    assert bool(assumed) != has_args
    assert any("assumed" in note for note in report.notes) != has_args


def test_the_arguments_of_a_run_are_those_beside_its_weights(tmp_path: Path) -> None:
    model = _trained(timm.create_model("efficientnet_lite0", num_classes=3))
    save_file(model.state_dict(), tmp_path / "best.safetensors")
    (tmp_path / "args.yaml").write_text("model: efficientnet_lite0\nimg_size: 64\nmean: [0.1, 0.2, 0.3]\n")
    (tmp_path / "class_names.txt").write_text("a\nb\nc\n")
    report = convert(tmp_path / "best.safetensors", tmp_path / "out", UNVERIFIED)
    assert tuple(report.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    assert report.origins["model_args.pad_type"] == "args.yaml: model: efficientnet_lite0"
    assert report.label_names == ("a", "b", "c")
    _check_same_outputs(model, tmp_path / "out")


def test_every_entry_of_the_config_has_its_origin(ours: nn.Module, tmp_path: Path) -> None:
    source = _save(ours.state_dict(), tmp_path / "last.pth", "zip")
    options = Options(
        verify=False, label_names=("a", "b", "c"), pretrained_cfg={"mean": (0.1, 0.2, 0.3)}, license="mit"
    )
    report = convert(source, tmp_path / "out", options)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    parts = ("model_args", "pretrained_cfg")
    paths = {name for name in config if name not in parts} | {
        f"{part}.{name}" for part in parts for name in config[part]
    }
    assert report.origins.keys() == paths
    assert report.origins["pretrained_cfg.mean"] == "given"
    (note,) = [note for note in report.notes if "assumed" in note and "crop_pct" in note]
    assert note.endswith("Say otherwise with --input-size, --interpolation, --crop-pct, --crop-mode, --std")
    assert "mean" not in note


def test_arguments_of_train_py_are_taken_over(tmp_path: Path) -> None:
    model = _trained(
        timm.create_model("tf_efficientnet_lite0", num_classes=3, pad_type="", bn_eps=0.01, global_pool="max")
    )
    args = argparse.Namespace(
        model_kwargs={"pad_type": ""}, bn_eps=0.01, gp="max", img_size=96, input_size=None, in_chans=None,
        mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], interpolation="", crop_pct=0.9, lr=0.1,
    )  # fmt: skip
    saved = {"state_dict": model.state_dict(), "arch": "tf_efficientnet_lite0", "args": args}
    report = convert(_save(saved, tmp_path / "last.pth.tar", "zip"), tmp_path / "out", UNVERIFIED)
    cfg = report.pretrained_cfg
    assert [tuple(cfg[name]) for name in ("input_size", "mean", "std")] == [
        (3, 96, 96),
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    ]
    assert cfg["crop_pct"] == 0.9
    _check_same_outputs(model, tmp_path / "out")


def test_arguments_that_are_no_settings_are_left_alone(ours: nn.Module, tmp_path: Path) -> None:
    nonsense = {name: torch.ones(3) for name in ("mean", "std", "img_size", "in_chans", "input_size", "bn_eps", "gp")}
    args = argparse.Namespace(**nonsense, model_kwargs={"act_layer": torch.ones(3)}, crop_pct=-1.0)
    source = _save({"state_dict": ours.state_dict(), "args": args}, tmp_path / "last.pth.tar", "zip")
    convert(source, tmp_path / "out", UNVERIFIED)
    _check_same_outputs(ours, tmp_path / "out")


@pytest.mark.parametrize("in_chans", [1, 4])
def test_photos_fit_any_number_of_channels(in_chans: int, tmp_path: Path) -> None:
    model = _trained(timm.create_model("hucorz_efficientnetv2_b0", in_chans=in_chans, **SMALL))
    calibrate(model, in_chans)
    source = _save(model.state_dict(), tmp_path / "model.pth", "zip")
    (proof,) = convert(source, tmp_path / "out", Options()).proofs
    assert proof.kind == "plausibility"


def calibrate(model: nn.Module, in_chans: int) -> None:
    """Let the BatchNorms' statistics be those of noise."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
            module.reset_running_stats()
    with torch.no_grad():
        for seed in range(4):
            model(torch.randn(8, in_chans, 64, 64, generator=torch.Generator().manual_seed(seed)))
    model.eval()


def test_a_hub_folder_is_read_with_its_config(ours: nn.Module, tmp_path: Path) -> None:
    timm.models.save_for_hf(ours, tmp_path / "hub", safe_serialization=True, data_config={"mean": (0.1, 0.2, 0.3)})
    report = convert(tmp_path / "hub", tmp_path / "out", UNVERIFIED)
    assert tuple(report.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    _check_same_outputs(ours, tmp_path / "out")


def test_values_are_not_read_before_they_are_asked_for(ours: nn.Module, tmp_path: Path) -> None:
    source = _save(ours.state_dict(), tmp_path / "model", "safetensors")
    values = read_torch(source, source).variables.model["conv_stem.weight"].read()
    assert not values.flags.owndata
    assert not values.flags.writeable


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("attacked"),))


def test_no_object_of_a_pickle_is_ever_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": _Attack()}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointFormatError, match="other Python objects than tensors"):
        convert(tmp_path / "model.pth", tmp_path / "out", UNVERIFIED)
    assert not Path("attacked").exists()


@pytest.mark.parametrize("size", [9, 60, 500, -9])
@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_a_cut_file_says_so(ours: nn.Module, kind: str, size: int, tmp_path: Path) -> None:
    whole = _save(ours.state_dict(), tmp_path / "whole", kind).read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole[:size])
    with pytest.raises(CheckpointFormatError, match=r"cut|known"):
        convert(cut, tmp_path / "out", UNVERIFIED)


def test_a_flipped_bit_of_a_weight_is_found_where_there_are_checksums(ours: nn.Module, tmp_path: Path) -> None:
    raw = bytearray(_save(ours.state_dict(), tmp_path / "model.pth", "zip").read_bytes())
    weight = ours.state_dict()["conv_head.weight"].numpy().tobytes()
    raw[raw.index(weight) + 5] ^= 1
    (tmp_path / "model.pth").write_bytes(raw)
    with pytest.raises(CheckpointFormatError, match=r"cut or damaged .*Bad CRC-32 for file"):
        convert(tmp_path / "model.pth", tmp_path / "out", UNVERIFIED)


def test_a_file_without_checksums_is_read(ours: nn.Module, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        source = _save(ours.state_dict(), tmp_path / "model.pth", "zip")
    finally:
        torch.serialization.set_crc32_options(True)
    convert(source, tmp_path / "out", UNVERIFIED)
    _check_same_outputs(ours, tmp_path / "out")


def test_a_zip_that_says_to_go_on_elsewhere_is_damaged(ours: nn.Module, tmp_path: Path) -> None:
    raw = _save(ours.state_dict(), tmp_path / "model.pth", "zip").read_bytes()
    locator = raw.rindex(b"PK\x06\x07")  # of the zip64 directory: disk (4 bytes), offset (8), number of disks
    (tmp_path / "model.pth").write_bytes(raw[: locator + 16] + b"\x02" + raw[locator + 17 :])
    with pytest.raises(CheckpointFormatError, match=r"model\.pth: cut or damaged .*multiple disks"):
        convert(tmp_path / "model.pth", tmp_path / "out", UNVERIFIED)


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv_stem.weight": 1}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointFormatError, match=r"expected a state_dict, found no tensors: conv_stem.weight"):
        convert(tmp_path / "model.pth", tmp_path / "out", UNVERIFIED)


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04", pickle.dumps({}), b"<html>", b"\x00" * 100])
def test_other_files_are_not_taken_for_pytorchs(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert weight_file(tmp_path / "file") is None


def test_a_damaged_config_is_named(ours: nn.Module, tmp_path: Path) -> None:
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    for wrong in ({"model_args": 3}, {"architecture": []}, [1]):
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(CheckpointFormatError, match=r"config\.json: expected an? (JSON )?object"):
            convert(tmp_path / "model.safetensors", tmp_path / "out", UNVERIFIED)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", 0.5), ("mean", ["x"]), ("std", [0, 1, 1]), ("input_size", [3, 64]), ("input_size", [3, 64, -1]),
     ("crop_pct", 0), ("crop_pct", float("nan")), ("interpolation", 3), ("interpolation", "sharp"), ("crop_mode", "x")],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_named(ours: nn.Module, tmp_path: Path, name: str, value: Any) -> None:
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {name: value}}))
    with pytest.raises(CheckpointFormatError, match=rf"config\.json: {name} makes no sense: "):
        convert(tmp_path, tmp_path / "out", UNVERIFIED)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"crop_pct": 1e-9}, "crop_pct 1e-09 makes images of"),
        ({"mean": [0.5, 0.5]}, r"mean has 2 values \(config\.json\)"),
        ({"std": [58.395, 57.12, 57.375]}, r"std has 58\.395 \(config\.json\), which is of pixels of 0 … 255"),
    ],
)
def test_settings_that_fit_no_image_are_refused(
    setting: dict[str, Any], message: str, ours: nn.Module, tmp_path: Path
) -> None:
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": setting}))
    with pytest.raises(EffNetExtError, match=message):
        convert(tmp_path, tmp_path / "out", UNVERIFIED)


def test_the_scale_is_that_of_the_weights_whatever_the_config_says(ours: nn.Module, tmp_path: Path) -> None:
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"width_mult": 7, "in_chans": 1}}))
    convert(tmp_path, tmp_path / "out", UNVERIFIED)
    _check_same_outputs(ours, tmp_path / "out")


def test_arguments_that_build_no_model_are_refused(ours: nn.Module, tmp_path: Path) -> None:
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"colour": "red"}}))
    with pytest.raises(VerificationError, match="timm builds no model from what the source says of itself"):
        convert(tmp_path, tmp_path / "out", Options())
