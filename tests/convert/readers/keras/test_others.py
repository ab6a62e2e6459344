"""Files by other code on Keras, and models as people fine-tune them, become what computes the same, or are refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.convert._sources import tiny_variables
from tests.convert.readers.keras._files import TOLERANCE, error, folder, outputs
from timm_effnet_ext.convert.dialects.keras import KECAM2
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.readers.keras.head import check_backbone
from timm_effnet_ext.convert.readers.keras.source import open_keras
from timm_effnet_ext.convert.records import Options, Report
from timm_effnet_ext.convert.verification import Converted
from timm_effnet_ext.errors import CheckpointFormatError, NameMappingError
from timm_effnet_ext.files.hub_format import MULTI_LABEL, SINGLE_LABEL

PYTORCH = {"pad_type": "", "bn_eps": 1e-5}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = dict.fromkeys(("mean", "std"), (0.5,) * 3)

# File, dialect, numerics, what the outputs are, and what is said of the images.
FILES: list[tuple[str, str, dict[str, Any], str | None]] = [
    ("other2_tutorial.weights.h5", "keras_counted", {}, SINGLE_LABEL),
    ("other2_nested.weights.h5", "keras_counted", {}, SINGLE_LABEL),
    ("other2_nested.keras", "keras2_v1", {}, SINGLE_LABEL),
    ("other2_operators.h5", "keras2_v2", {}, MULTI_LABEL),
    ("other2_qubvel.h5", "keras2_v1", {}, SINGLE_LABEL),
    ("other2_kev2.h5", "kecam2", PYTORCH, SINGLE_LABEL),
    ("other3_tutorial.keras", "keras3_v1", {}, SINGLE_LABEL),
    ("other3_tutorial.weights.h5", "keras3_v1", {}, SINGLE_LABEL),
    ("other3_operators.keras", "keras3_v2", {}, MULTI_LABEL),
    ("other3_kerashub.keras", "kerashub", {"pad_type": "", "bn_eps": 1e-4, "global_pool": "max"}, SINGLE_LABEL),
    ("other3_kerashub_preset", "kerashub", {"pad_type": "", "bn_eps": 1e-4, "global_pool": "max"}, SINGLE_LABEL),
]


def computed(source: Path, out: Path, name: str, **options: Any) -> tuple[Report, float]:
    """Return the report of a conversion, and how far the outputs are from those that Keras computed."""
    report = convert(source, out, Options(**options))
    images, wanted = outputs(name, "native")
    model = Converted.load(out)
    if not any(origin.startswith("the file's") for key, origin in report.origins.items() if key.endswith(".mean")):
        model = model._replace(mean=np.array(0.5), std=np.array(0.5))  # what was given to a model that scales nothing
    return report, error(model.run(model.normalise(images)), wanted)


@pytest.mark.parametrize(("name", "dialect", "args", "problem_type"), FILES, ids=[file[0] for file in FILES])
def test_our_model_computes_what_keras_did(
    name: str, dialect: str, args: dict[str, Any], problem_type: str | None, tmp_path: Path
) -> None:
    is_scaled = "tutorial" in name or "nested" in name  # by the variables of its own layers, where no config says it
    scaling = {} if not is_scaled or name.endswith(".keras") else {"pretrained_cfg": IMAGENET, "knows": "the file's"}
    report, difference = computed(
        folder() / name, tmp_path / "out", name.replace("_preset", ""), verify=False, **scaling
    )
    assert difference < TOLERANCE
    assert (report.dialect, dict(report.model_args).items() >= args.items()) == (dialect, True)
    assert report.problem_type == problem_type


@pytest.mark.parametrize("name", ["other2_operators.h5", "other3_operators.keras", "other3_tutorial.keras"])
def test_what_was_folded_is_verified_by_the_graph(name: str, tmp_path: Path) -> None:
    report = convert(folder() / name, tmp_path / "out", Options())
    assert [proof.kind for proof in report.proofs] == ["graph"]
    assert report.proofs[0].figures["relative"] < 1e-6  # the folded weights are rounded to float32
    assert report.proofs[0].figures["prepared"] < 1e-9
    assert report.counts["folded"] >= 4
    assert any("folded into one classifier" in note for note in report.notes)


@pytest.mark.parametrize("name", ["other2_operators.h5", "other3_operators.keras"])
def test_arithmetic_in_front_is_mean_and_std(name: str) -> None:
    with open_keras(folder() / name) as checkpoint:
        said = checkpoint.statements[0].preprocessing
    assert {key: said[key] for key in HALF} == {key: pytest.approx(value, abs=1e-12) for key, value in HALF.items()}


def test_kerashubs_converter_is_resizing_and_scaling(tmp_path: Path) -> None:
    for name in ("other3_kerashub.keras", "other3_kerashub_preset"):
        with open_keras(folder() / name) as checkpoint:
            said = checkpoint.statements[0].preprocessing
            assert any("without smoothing them" in note for note in checkpoint.notes)
        assert {key: said[key] for key in HALF} == {key: pytest.approx(value) for key, value in HALF.items()}
        assert (said["input_size"], said["interpolation"], said["crop_mode"]) == ((3, 64, 64), "bilinear", "center")


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    notes = {}
    for name in ("other2_qubvel.h5", "other2_tutorial.weights.h5"):
        report = convert(folder() / name, tmp_path / name, Options(verify=False))
        notes[name] = " ".join(report.notes)
    assert "FixedDropout" in notes["other2_qubvel.h5"]
    assert "was assumed to do nothing at inference" in notes["other2_qubvel.h5"]
    assert "were folded into the classifier: it was assumed" in notes["other2_tutorial.weights.h5"]


def with_config(source: Path, target: Path, edit: Any) -> Path:
    """Return a copy of an .h5 file with another config."""
    shutil.copy(source, target)
    with h5py.File(target, "a") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(config)
    return target


@pytest.mark.parametrize("config", [{"rate": 0.2, "mode": "scale"}, {"rate": "0.2"}, {"keep": 0.8}])
def test_a_layer_that_may_do_something_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    def edit(layers: list[dict[str, Any]]) -> None:
        layers.insert(-1, {"class_name": "MyLayer", "config": {"name": "mine", **config}})

    path = with_config(folder() / "other2_qubvel.h5", tmp_path / "a.h5", edit)
    with pytest.raises(NameMappingError, match=r"layer 'mine' \(MyLayer\) stands in the head"):
        convert(path, tmp_path / "out", Options(verify=False))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Dense", {"units": 4, "activation": "relu"}, r"layer 'mine' \(Dense\) stands in the head"),
        ("LayerNormalization", {}, r"layer 'mine' \(LayerNormalization\) stands in the head"),
        ("Flatten", {}, None),
    ],
)
def test_heads_that_are_no_affine_map_are_refused(
    kind: str, settings: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    def edit(layers: list[dict[str, Any]]) -> None:
        layers.insert(-1, {"class_name": kind, "config": {"name": "mine", **settings}})

    path = with_config(folder() / "other2_qubvel.h5", tmp_path / "a.h5", edit)
    if message is None:
        with open_keras(path) as checkpoint:
            assert checkpoint.graph is not None
        return
    with pytest.raises(NameMappingError, match=message):
        convert(path, tmp_path / "out", Options(verify=False))
    report = convert(path, tmp_path / "out", Options(headless=True))
    assert (report.num_classes, [proof.kind for proof in report.proofs]) == (0, ["graph"])


def test_of_several_outputs_the_features_are_left(tmp_path: Path) -> None:
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(folder() / "keras3_flat.keras") as whole, zipfile.ZipFile(path, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "config.json":
                config = json.loads(content)
                (first,) = outputs = _ends(config)
                config["config"]["output_layers"] = [*outputs, [config["config"]["layers"][-2]["name"], *first[1:]]]
                content = json.dumps(config).encode()
            changed.writestr(name, content)
    with pytest.raises(NameMappingError, match=r"2 outputs stand in the head; .* --headless leaves the head out"):
        convert(path, tmp_path / "out", Options(verify=False))
    report = convert(path, tmp_path / "out", Options(headless=True))
    assert (report.num_classes, [proof.kind for proof in report.proofs]) == (0, ["graph"])


def _ends(config: Any) -> list[Any]:
    found = config["config"]["output_layers"]
    return found if isinstance(found[0], list) else [found]


@pytest.mark.parametrize(
    ("function", "given", "problem"),
    [
        ("math.truediv", ["_CONSTANT_VALUE", -1, 2.0, {"y": ["x", 0, 0]}], "divides by the image"),
        ("cast", ["x", 0, 0, {"dtype": "uint8"}], "rounds to uint8"),
        ("math.add", ["x", 0, 0, {"y": ["x", 0, 0]}], "is not the only one that takes"),
        ("math.negative", ["x", 0, 0, {"y": 1.0}], "takes 2 values, 1 of them constant"),
    ],
)
def test_arithmetic_that_is_no_scaling_is_refused(
    function: str, given: list[Any], problem: str, tmp_path: Path
) -> None:
    def edit(layers: list[dict[str, Any]]) -> None:
        first = next(layer for layer in layers if layer["class_name"] == "TFOpLambda")
        before = first["inbound_nodes"][0][0]
        first["config"]["function"] = function
        first["inbound_nodes"] = json.loads(json.dumps([given]).replace('"x"', json.dumps(before)))

    path = with_config(folder() / "other2_operators.h5", tmp_path / "a.h5", edit)
    with pytest.raises(NameMappingError, match=f"stands before the network and {problem}"), open_keras(path):
        pass


# A network of TensorFlow Hub's as one layer: its variables under Google's names, below the layer's group.


def hub_layer(path: Path, named: bool = True) -> Path:
    values = tiny_variables(num_classes=0)
    with h5py.File(path, "w") as file:
        for number, (name, value) in enumerate(values.items()):
            file[f"keras_layer/{name}:0" if named else f"layers/keras_layer/vars/{number}"] = value
        out = "dense/dense/{}:0" if named else "layers/dense/vars/{}"
        width = values["efficientnetv2-b0/head/conv2d/kernel"].shape[-1]
        file[out.format("kernel" if named else 0)] = np.ones((width, 3), np.float32)
        file[out.format("bias" if named else 1)] = np.zeros(3, np.float32)
        if named:
            file.attrs["keras_version"] = "2.12.0"
    return path


def test_a_hub_layer_has_googles_names(tmp_path: Path) -> None:
    report = convert(hub_layer(tmp_path / "a.h5"), tmp_path / "out", Options(verify=False))
    assert (report.dialect, report.arch, report.num_classes) == ("tf1", "efficientnetv2_b0", 3)


def test_a_hub_layer_without_names_is_refused(tmp_path: Path) -> None:
    path = hub_layer(tmp_path / "a.weights.h5", named=False)
    with pytest.raises(
        CheckpointFormatError, match=r"variables by number, without names.*Save the whole model in Keras 2"
    ):
        convert(path, tmp_path / "out", Options(verify=False))


def test_the_layers_around_a_hub_layer_are_understood(tmp_path: Path) -> None:
    path = hub_layer(tmp_path / "a.h5")
    layers = [
        {"class_name": "InputLayer", "config": {"name": "in", "batch_input_shape": [None, 96, 96, 3]}},
        {"class_name": "Rescaling", "config": {"name": "scale", "scale": 1 / 127.5, "offset": -1}},
        {"class_name": "KerasLayer", "config": {"name": "keras_layer", "handle": "https://tfhub.dev/x"}},
        {"class_name": "Dense", "config": {"name": "dense", "activation": "sigmoid"}},
    ]
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "m", "layers": layers}})
    with open_keras(path) as checkpoint:
        (said,) = checkpoint.statements
        assert checkpoint.graph is None
    assert (said.problem_type, said.preprocessing["input_size"]) == (MULTI_LABEL, (3, 96, 96))
    assert said.preprocessing["mean"] == pytest.approx((0.5,) * 3)


# Numerics that the names bring along.


def test_kecam_pads_its_v2_t_as_pytorch_and_has_silu_in_lite(tmp_path: Path) -> None:
    for arch, scale, args in (
        ("efficientnetv2_s", {"width_mult": 0.8, "depth_mult": 0.9}, PYTORCH),
        ("efficientnet_lite0", {}, {"act_layer": "silu"}),
    ):
        values = tiny_variables(arch, KECAM2, "", **{"width_mult": 1.0, "depth_mult": 1.0, **scale})
        path = tmp_path / f"{arch}.h5"
        with h5py.File(path, "w") as file:
            for name, value in values.items():
                layer, _, leaf = name.rpartition("/")
                file[f"{layer}/{layer}/{leaf}:0"] = value
        report = convert(path, tmp_path / arch, Options(verify=False))
        assert report.dialect == "kecam2"
        assert dict(report.model_args).items() >= args.items()


def test_kerashubs_v2_is_refused() -> None:
    config = {"stackwise_block_types": ["fused", "unfused"], "include_stem_padding": True, "stem_conv_padding": "valid"}
    with pytest.raises(
        NameMappingError, match="a backbone of KerasHub with blocks fused, unfused: supported are those of v1"
    ):
        check_backbone(config)
