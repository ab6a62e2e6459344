"""A checkpoint becomes a folder that timm loads and that computes what TensorFlow computed, or nothing at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file

import timm_effnet_ext  # noqa: F401  registers the models
from tests._bundle_writer import write_bundle
from tests.closeness import FLOAT32, assert_close
from tests.convert._sources import DATA, EMA, tiny_bundle, tiny_variables, with_ema
from tests.processes import imported_by
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.dialects.dialect import plan, to_source
from timm_effnet_ext.convert.dialects.pytorch import TIMM
from timm_effnet_ext.convert.pipeline import FILES, RECORD_FILE, WEIGHTS_FILE, convert, read_record
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, NameMappingError, VerificationError

UNVERIFIED = Options(verify=False)

# What TensorFlow wrote and computed: tests/data/tf/*/provenance.json.
REAL = [
    ("automl_v2_b0", "model.ckpt-4321", "ema", "hucorz_efficientnetv2_b0"),
    ("automl_v2_b0", "model.ckpt-4321", "raw", "hucorz_efficientnetv2_b0"),
    ("tpu_b0", "model.ckpt-4321.index", "ema", "hucorz_efficientnet_b0"),
    ("tpu_b0", "", "raw", "hucorz_efficientnet_b0"),
    ("tpu_condconv_b0_4e", "", "ema", "hucorz_efficientnet_cc_b0_4e"),
    ("tpu_condconv_b0_4e", "", "raw", "hucorz_efficientnet_cc_b0_4e"),
    ("tpu_lite0", "", "raw", "hucorz_efficientnet_lite0"),
    ("tpu_edgetpu_s", "", "raw", "hucorz_efficientnet_es"),
    ("automl_v2_b0_tf2", "object", "raw", "hucorz_efficientnetv2_b0"),
    ("automl_v2_b0_tf2", "save_weights", "raw", "hucorz_efficientnetv2_b0"),
    ("automl_v2_b0_tf2", "saved_model", "raw", "hucorz_efficientnetv2_b0"),
]


@pytest.mark.parametrize(("name", "source", "weights", "architecture"), REAL)
def test_outputs_are_those_of_tensorflow(
    name: str, source: str, weights: str, architecture: str, tmp_path: Path
) -> None:
    reference = DATA / name / f"reference_{weights}.npz"
    report = convert(DATA / name / source, tmp_path / "out", Options(weights=weights, reference=reference))
    assert report.architecture == architecture
    assert report.verified
    assert report.proofs[0].figures["relative"] < 1e-4

    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with np.load(reference) as data:
        for key in (key for key in data.files if key.startswith("input")):
            expected = data[key.replace("input", "output")][:, -model.num_classes :]
            with torch.inference_mode():
                found = model(torch.from_numpy(data[key]).permute(0, 3, 1, 2)).numpy()
            assert_close(found, expected, FLOAT32)  # the engines of TensorFlow differ by 2e-5


def test_the_tests_data_is_as_tensorflow_wrote_it() -> None:
    for provenance in DATA.glob("*/provenance.json"):
        for name, digest in json.loads(provenance.read_text())["sha256"].items():
            assert hashlib.sha256((provenance.parent / name).read_bytes()).hexdigest() == digest, name


def test_ema_taken_for_raw_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wrong = Options(weights="raw", reference=DATA / "tpu_b0" / "reference_ema.npz")
    with pytest.raises(VerificationError, match=r"largest difference of outputs .* allowed 1e-04"):
        convert(DATA / "tpu_b0", tmp_path / "out", wrong)
    assert list(tmp_path.iterdir()) == []


def test_every_variable_is_counted(tmp_path: Path) -> None:
    values = with_ema(tiny_variables())
    report = convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)
    used = len(tiny_variables())
    assert report.step == 7
    assert report.counts["used"] == report.counts["from_ema"] == used
    spent = report.counts.keys() - {"from_ema"}  # those are among the used
    assert sum(report.counts[kind] for kind in spent) == len(values)


def test_ema_and_raw_are_told_apart_in_every_tensor(tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path, with_ema(tiny_variables()))
    states = {}
    for weights in ("ema", "raw"):
        convert(source, tmp_path / weights, Options(weights=weights, verify=False))
        states[weights] = load_file(tmp_path / weights / WEIGHTS_FILE)
    for name, raw in states["raw"].items():
        assert torch.equal(states["ema"][name], raw / 2), name


def test_ema_alone_is_taken_as_such(tmp_path: Path) -> None:
    averages = {name: value for name, value in with_ema(tiny_variables()).items() if name.endswith(EMA)}
    report = convert(tiny_bundle(tmp_path, averages), tmp_path / "out", UNVERIFIED)
    assert (report.weights, report.counts["from_ema"], report.counts["raw_beside_ema"]) == ("ema", len(averages), 0)


def test_an_average_of_another_shape_is_an_error(tmp_path: Path) -> None:
    values = with_ema(tiny_variables())
    values[f"efficientnetv2-b0/stem/conv2d/kernel{EMA}"] = values["efficientnetv2-b0/stem/conv2d/kernel"].reshape(-1)
    with pytest.raises(NameMappingError, match=r"EMA twins of 1 variables have other shapes: .*stem/conv2d/kernel"):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_a_mix_of_ema_and_raw_is_an_error(tmp_path: Path) -> None:
    values = with_ema(tiny_variables())
    del values[f"efficientnetv2-b0/stem/tpu_batch_normalization/moving_mean{EMA}"]
    with pytest.raises(NameMappingError, match=r"1 of 113 variables have no EMA twin: .*moving_mean\. .*--weights raw"):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_no_ema_is_a_note(tmp_path: Path) -> None:
    report = convert(tiny_bundle(tmp_path), tmp_path / "out", UNVERIFIED)
    assert report.weights == "raw"
    assert any("no EMA weights" in note for note in report.notes)


def test_a_saved_model_of_a_tf1_graph_is_read_by_its_names(tmp_path: Path) -> None:
    write_bundle(tmp_path / "export" / "variables" / "variables", tiny_variables())
    (tmp_path / "export" / "saved_model.pb").touch()
    report = convert(tmp_path / "export", tmp_path / "out", UNVERIFIED)
    assert (report.arch, report.counts["used"]) == ("efficientnetv2_b0", len(tiny_variables()))


@pytest.mark.parametrize("has_scope", [True, False])
def test_a_dense_layer_of_ones_own_is_the_classifier(has_scope: bool, tmp_path: Path) -> None:
    # google/automl efficientnetv2/tutorial.ipynb: Sequential([get_model(name, include_top=False), Dropout, Dense])
    usual = tiny_variables(prefix="efficientnetv2-b0/" if has_scope else "")
    own = {name.rpartition("head/")[2] if "head/dense" in name else name: value for name, value in usual.items()}
    assert {"dense/kernel", "dense/bias"} <= own.keys()
    folders = []
    for name, values in (("usual", usual), ("own", own)):
        source = tiny_bundle(tmp_path / name, with_ema(values))
        report = convert(source, tmp_path / name / "out", UNVERIFIED)
        assert (report.num_classes, report.weights) == (5, "ema")
        folders.append(load_file(tmp_path / name / "out" / "model.safetensors"))
    assert report.reason.endswith("the classifier being dense/bias, dense/kernel")
    assert all(torch.equal(folders[0][name], folders[1][name]) for name in folders[0] | folders[1])


def test_a_dense_layer_of_another_width_is_left_over(tmp_path: Path) -> None:
    values = {name: value for name, value in tiny_variables().items() if "head/dense" not in name}
    values |= {"dense/kernel": np.ones((7, 2), "f4"), "dense/bias": np.ones(2, "f4")}
    with pytest.raises(NameMappingError, match=r"left over.*dense/bias \(\d+,\), .*dense/kernel \("):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_a_variable_left_over_is_named(tmp_path: Path) -> None:
    values = {
        **tiny_variables(),
        "efficientnetv2-b0/extra/kernel": np.ones(3, np.float32),
        "other/bias": np.ones(3, "f4"),
    }
    with pytest.raises(NameMappingError, match=r"left over.*efficientnetv2-b0/extra/kernel"):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    values = tiny_variables(width_mult=1.0, depth_mult=1.0)
    del values["efficientnetv2-b0/blocks_3/conv2d/kernel"]
    with pytest.raises(NameMappingError, match=r"nearest is efficientnetv2_b0 .*1 missing: .*blocks_3/conv2d/kernel"):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_something_else_is_told_by_its_names(tmp_path: Path) -> None:
    values = {"resnet/conv1/kernel": np.ones((7, 7, 3, 64), np.float32), "resnet/fc/bias": np.ones(10, np.float32)}
    with pytest.raises(NameMappingError, match=r"none of the 29 architectures.*resnet/conv1/kernel"):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_two_networks_ask_for_the_model(tmp_path: Path) -> None:
    student = tiny_variables("efficientnet_lite0", prefix="student/", width_mult=0.1)
    source = tiny_bundle(tmp_path, {**tiny_variables(), **student})
    with pytest.raises(NameMappingError, match=r"fits 2 different models: .* and .*--model"):
        convert(source, tmp_path / "out", UNVERIFIED)
    report = convert(source, tmp_path / "out", Options(model="efficientnet_lite0", verify=False))
    assert report.arch == "efficientnet_lite0"
    assert report.counts["other_model"] == len(tiny_variables())
    assert report.counts["used"] == len(student)


def test_a_model_that_does_not_fit_is_refused_with_the_one_that_does(tmp_path: Path) -> None:
    with pytest.raises(NameMappingError, match=r"is not efficientnet_b7: it fits efficientnetv2_b0"):
        convert(tiny_bundle(tmp_path), tmp_path / "out", Options(model="efficientnet_b7", verify=False))


@pytest.mark.parametrize("name", ["efficientnetv2_b1", "hucorz_efficientnetv2_b1", "tf_efficientnetv2_b1"])
def test_of_rows_that_compute_the_same_the_wanted_one_is_taken(name: str, tmp_path: Path) -> None:
    report = convert(tiny_bundle(tmp_path), tmp_path / "out", Options(model=name, verify=False))
    assert report.arch == "efficientnetv2_b1"


@pytest.mark.parametrize(
    ("leaf", "value", "message"),
    [
        ("gamma", np.nan, "1 values that are not finite"),
        ("kernel", np.inf, "1 values that are not finite"),
        ("beta", 1e300, "1 values that are not finite"),
        ("moving_variance", -1e-3, r"negative variance \(-0.001\)"),
    ],
)
def test_values_that_no_model_has_are_refused(leaf: str, value: float, message: str, tmp_path: Path) -> None:
    values = tiny_variables()
    name = next(name for name in values if name.endswith(leaf))
    values[name] = values[name].astype("f8")
    values[name].flat[0] = value
    with pytest.raises(CheckpointFormatError, match=message):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)
    assert not (tmp_path / "out").exists()


def test_a_variance_of_zero_is_what_dead_channels_have(tmp_path: Path) -> None:
    values = tiny_variables()
    for name, value in values.items():
        if name.endswith("moving_variance"):
            value[0] = 0
    assert convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    values = tiny_variables()
    values["efficientnetv2-b0/stem/conv2d/kernel"] = np.ones((3, 3, 3, 8), np.int32)
    with pytest.raises(CheckpointFormatError, match=r"conv_stem.weight holds int32"):
        convert(tiny_bundle(tmp_path, values), tmp_path / "out", UNVERIFIED)


def test_every_precision_becomes_float32(tmp_path: Path) -> None:
    values = tiny_variables()
    names = sorted(values)
    expected = {name: value.astype(np.float16) for name, value in values.items()}
    mixed = {name: expected[name].astype(("f2", "f4", "f8")[i % 3]) for i, name in enumerate(names)}
    convert(tiny_bundle(tmp_path, mixed), tmp_path / "out", UNVERIFIED)
    state = load_file(tmp_path / "out" / WEIGHTS_FILE)
    floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert np.isclose(
        sum(float(t.double().sum()) for t in floats), sum(v.astype("f8").sum() for v in expected.values())
    )


def test_partitioned_and_bfloat16_variables_in_three_shards_are_read(tmp_path: Path) -> None:
    values = tiny_variables()
    kernel = "efficientnetv2-b0/head/conv2d/kernel"
    rounded = {name: (value.view("u4") & 0xFFFF0000).view("f4") for name, value in values.items()}
    convert(tiny_bundle(tmp_path / "a", rounded), tmp_path / "plain", UNVERIFIED)
    odd = tiny_bundle(
        tmp_path / "b", rounded, shards=3, slices={kernel: (3, 2)}, bfloat16=[n for n in rounded if n != kernel]
    )
    convert(odd, tmp_path / "odd", UNVERIFIED)
    assert (tmp_path / "plain" / WEIGHTS_FILE).read_bytes() == (tmp_path / "odd" / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "efficientnet_b7"}, "SOURCE: is not efficientnet_b7: it fits"),
        ({"prefix": "net"}, "SOURCE: --prefix net: no network lies there"),
        ({"timm_native": True}, "SOURCE: timm has no efficientnetv2_b0 with"),
        ({}, "SOURCE: conv_stem.weight has 1 values that are not finite"),
        ({"label_names": ("ant", "bee")}, "2 label names for 5 classes"),
        ({"pretrained_cfg": {"mean": (0.5, 0.5)}}, "mean has 2 values (given), the images have 3 channels"),
        (
            {"pretrained_cfg": {"mean": (123.675,)}},
            "mean has 123.675 (given), which is of pixels of 0 … 255, and timm's",
        ),
    ],
)
def test_what_is_wrong_with_the_source_begins_with_it_and_what_is_wrong_with_options_does_not(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = tiny_variables()
    values["efficientnetv2-b0/stem/conv2d/kernel"].flat[0] = np.nan
    source = tiny_bundle(tmp_path, values)
    with pytest.raises(EffNetExtError) as refusal:
        convert(source, tmp_path / "out", Options(verify=False, **options))
    assert str(refusal.value).startswith(message.replace("SOURCE", str(source)))


# Classes


def test_the_background_class_is_cut(tmp_path: Path) -> None:
    values = tiny_variables(num_classes=1001)
    source = tiny_bundle(tmp_path, values)
    report = convert(source, tmp_path / "cut", UNVERIFIED)
    assert report.num_classes == 1000
    assert "background" in report.classes
    bias = load_file(tmp_path / "cut" / WEIGHTS_FILE)["classifier.bias"].numpy()
    assert np.array_equal(bias, values["efficientnetv2-b0/head/dense/bias"][1:])
    assert convert(source, tmp_path / "kept", Options(keep_background=True, verify=False)).num_classes == 1001


def test_1001_names_are_evidence_against_a_background_class(tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path, tiny_variables(num_classes=1001))
    names = tuple(f"class {i}" for i in range(1001))
    assert convert(source, tmp_path / "a", Options(label_names=names, verify=False)).num_classes == 1001
    assert convert(source, tmp_path / "b", Options(label_names=names[1:], verify=False)).num_classes == 1000


def test_label_names_reach_the_model(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat", "dog", "elk")
    convert(tiny_bundle(tmp_path), tmp_path / "out", Options(label_names=names, verify=False))
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert tuple(model.pretrained_cfg["label_names"]) == names


def test_label_names_are_counted(tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match="3 label names for 5 classes"):
        convert(tiny_bundle(tmp_path), tmp_path / "out", Options(label_names=("a", "b", "c"), verify=False))


def test_a_file_without_classifier_has_no_classes(tmp_path: Path) -> None:
    report = convert(tiny_bundle(tmp_path, tiny_variables(num_classes=0)), tmp_path / "out", UNVERIFIED)
    assert report.num_classes == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, model.num_features)


# What is written


def test_the_folder_is_complete_and_the_record_says_what_is_in_it(tmp_path: Path) -> None:
    report = convert(tiny_bundle(tmp_path), tmp_path / "out", Options(license="apache-2.0", verify=False))
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == set(FILES)
    record = read_record(out)
    assert record == json.loads(json.dumps(report.to_json()))
    assert record["verified"] is False
    assert record["weights_sha256"] == hashlib.sha256((out / WEIGHTS_FILE).read_bytes()).hexdigest()
    source = tmp_path / "model.ckpt-7.index"
    assert record["sources"][source.name] == hashlib.sha256(source.read_bytes()).hexdigest()
    rows = {row["torch"]: row for row in record["mapping"]}
    assert rows["conv_stem.weight"]["source"] == "efficientnetv2-b0/stem/conv2d/kernel"
    assert rows["conv_stem.weight"]["perm"] == [3, 2, 0, 1]


def test_the_mapping_says_how_experts_are_laid_out(tmp_path: Path) -> None:
    report = convert(DATA / "tpu_condconv_b0_4e", tmp_path / "out", UNVERIFIED)
    rows = {row["torch"]: row for row in report.mapping}
    routed, plain = rows["blocks.4.0.conv_pw.weight"], rows["blocks.3.0.conv_pw.weight"]
    assert (routed["shape"], routed["perm"], routed["kernel"]) == ((4, 384), (3, 2, 0, 1), (1, 1, 8, 48))
    assert (plain["perm"], "kernel" in plain) == ((3, 2, 0, 1), False)


def test_the_mapping_says_which_of_the_twins_was_read(tmp_path: Path) -> None:
    report = convert(tiny_bundle(tmp_path, with_ema(tiny_variables())), tmp_path / "out", UNVERIFIED)
    assert {row["stored"] for row in report.mapping} == {row["source"] + EMA for row in report.mapping}


def test_the_keys_are_those_of_the_model_in_safetensors_own_eyes(tmp_path: Path) -> None:
    convert(tiny_bundle(tmp_path), tmp_path / "out", UNVERIFIED)
    model = timm.create_model("hucorz_efficientnetv2_b0", num_classes=5, width_mult=0.04, depth_mult=0.2)
    with safe_open(tmp_path / "out" / WEIGHTS_FILE, framework="pt") as file:
        assert {key: tuple(file.get_slice(key).get_shape()) for key in list(file.keys())} == {
            key: tuple(value.shape) for key, value in model.state_dict().items()
        }


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_b0", "efficientnet_lite0", "efficientnet_es"])
def test_timm_native_loads_in_timms_own_model(name: str, tmp_path: Path) -> None:
    values = tiny_variables(name, TIMM, "", width_mult=1.0, depth_mult=1.0)
    options = Options(timm_native=True, verify=False, model=f"tf_{name}")
    report = convert(_torch_file(tmp_path, values), tmp_path / "out", options)
    assert report.architecture == f"tf_{name}"
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert type(model).__module__.startswith("timm.models")
    entries = to_source(plan(ARCHS[name], TIMM, num_classes=5))
    assert torch.equal(
        model.state_dict()["classifier.weight"], torch.from_numpy(values[entries["classifier.weight"].source])
    )


def _torch_file(folder: Path, values: dict[str, np.ndarray]) -> Path:
    torch.save({name: torch.from_numpy(value) for name, value in values.items()}, folder / "model.pth")
    return folder / "model.pth"


def test_timm_native_refuses_what_timms_model_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match=r"timm has no efficientnetv2_b0 with width_mult=0.04"):
        convert(tiny_bundle(tmp_path), tmp_path / "out", Options(timm_native=True, verify=False))


@pytest.mark.parametrize("license_id", [None, "apache-2.0"])
def test_the_card_is_what_the_hub_accepts(license_id: str | None, tmp_path: Path) -> None:
    convert(tiny_bundle(tmp_path), tmp_path / "out", Options(license=license_id, verify=False))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license == license_id
    assert "Nothing was verified" in card.text


def test_the_card_holds_the_figures_of_the_proof(tmp_path: Path) -> None:
    report = convert(DATA / "tpu_lite0", tmp_path / "out", Options(reference=DATA / "tpu_lite0" / "reference_raw.npz"))
    assert report.proofs[0].detail in (tmp_path / "out" / "README.md").read_text()
    lines = (tmp_path / "out" / RECORD_FILE).read_text().splitlines()
    assert lines[lines.index('  "proofs": [') + 1].startswith('    {"kind": "reference"')  # one a line, for people


def test_what_the_caller_knows_comes_before_the_family(tmp_path: Path) -> None:
    known = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.5}
    convert(tiny_bundle(tmp_path), tmp_path / "out", Options(pretrained_cfg=known, verify=False))
    cfg = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["mean"], cfg["crop_pct"], cfg["interpolation"]) == ([0.1, 0.2, 0.3], 0.5, "bicubic")


# The target


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    source, out = tiny_bundle(tmp_path), tmp_path / "out"
    convert(source, out, UNVERIFIED)
    before = (out / RECORD_FILE).read_bytes()
    with pytest.raises(EffNetExtError, match=r"exists already.*--overwrite"):
        convert(source, out, Options(verify=False, license="mit"))
    assert (out / RECORD_FILE).read_bytes() == before
    convert(source, out, Options(verify=False, license="mit", overwrite=True))
    assert read_record(out)["license"] == "mit"
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("model.ckpt")} == {"out"}


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    source, out = tiny_bundle(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    with pytest.raises(EffNetExtError, match=r"holds thesis\.tex, which no conversion wrote"):
        convert(source, out, Options(verify=False, overwrite=True))
    assert (out / "thesis.tex").read_text() == "years"


def test_an_empty_folder_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert convert(tiny_bundle(tmp_path), tmp_path / "out", UNVERIFIED)


def test_a_record_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match=r"Is .* a folder that convert wrote\?"):
        read_record(tmp_path)
    (tmp_path / RECORD_FILE).write_text("{}")
    with pytest.raises(CheckpointFormatError, match="nothing about verification"):
        read_record(tmp_path)


def test_without_verification_neither_torch_nor_timm_is_imported(tmp_path: Path) -> None:
    command = ["convert", str(tiny_bundle(tmp_path)), "-o", str(tmp_path / "out"), "--no-verify"]
    assert imported_by(command, "torch", "timm", "huggingface_hub", "h5py") == set()
    assert (tmp_path / "out").is_dir()


def test_a_name_that_is_no_utf8_comes_back_as_it_was(tmp_path: Path) -> None:
    names = ("a", "b\ud800", "c", "d", "e")  # as JSON can have it: half of a pair of UTF-16
    options = Options(verify=False, label_names=names)
    report = convert(tiny_bundle(tmp_path), tmp_path / "out", options)
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["label_names"] == list(names)
    assert read_record(tmp_path / "out")["architecture"] == report.architecture


def test_a_path_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    latin = tmp_path / "caf\udce9"  # a name of Latin-1, as Python spells it
    try:
        latin.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(CheckpointFormatError, match=r"the path is no UTF-8, which torch .* Rename it"):
        convert(tiny_bundle(latin), tmp_path / "out", UNVERIFIED)
    with pytest.raises(EffNetExtError, match=r"the path is no UTF-8\. Choose another output folder"):
        convert(tiny_bundle(tmp_path), latin, UNVERIFIED)
