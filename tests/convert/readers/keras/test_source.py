"""source.py reads what Keras 2.15 and Keras 3.15 wrote, and our models compute from it what Keras computed."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from timm.data import str_to_pil_interp

from tests.convert._sources import said
from tests.convert.readers.keras._files import (
    ARCHIVES,
    TOLERANCE,
    candidate,
    converted,
    error,
    folder,
    logits,
    outputs,
)
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.readers.keras.source import is_keras, open_keras
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import CheckpointFormatError, NameMappingError, VerificationError
from timm_effnet_ext.files.hub_format import MULTI_LABEL, SINGLE_LABEL

NESTED = [f"keras{major}_nested{end}" for major in (2, 3) for end in (".keras", ".h5", ".weights.h5")]
NESTED.append("keras2_nested_weights.h5")
OTHERS = [f"keras{major}_{name}.keras" for major in (2, 3) for name in ("flat", "sequential", "topless", "top")]
FILES = NESTED + OTHERS
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def read(name: str):
    return open_keras(folder() / name)


def test_every_file_is_the_one_that_keras_wrote() -> None:
    for archive in ARCHIVES.glob("*.json"):
        for name, digest in json.loads(archive.read_text())["files"].items():
            assert hashlib.sha256((folder() / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("which", ["native", "odd"])
def test_our_model_computes_what_keras_did(name: str, which: str) -> None:
    images, wanted = outputs(name, which)
    with read(name) as checkpoint:
        cfg = said(checkpoint, "preprocessing")
        # `top` has no preprocessing layers and was given -1 … 1.
        found = logits(converted(checkpoint), images, cfg if "mean" in cfg else {"mean": 0.5, "std": 0.5})
    if which == "odd" and name in NESTED:
        # The base was built without a size: Keras pads as for even sizes there, unlike SAME.
        assert error(found, wanted) > 100 * TOLERANCE
    else:
        assert error(found, wanted) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in FILES if "weights" not in name])
def test_the_graph_computes_what_keras_did(name: str) -> None:
    images, wanted = outputs(name, "native")
    with read(name) as checkpoint:
        assert checkpoint.graph is not None
        graph = checkpoint.graph
        found = graph.compute(graph.prepare(images) if graph.has_preprocessing else images / np.float32(127.5) - 1)
    assert error(found, wanted) < TOLERANCE


@pytest.mark.parametrize("name", ["keras2_nested.keras", "keras3_nested.h5"])
def test_the_interpreter_pads_as_the_config_says_at_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, wanted = outputs(name, "odd")
    with read(name) as checkpoint:
        inputs = checkpoint.graph.prepare(images)
        with pytest.raises(VerificationError, match="built for images of another size than \\(75, 91\\): block"):
            checkpoint.graph.compute(inputs)
        with monkeypatch.context() as patch:
            patch.setattr("timm_effnet_ext.convert.readers.keras.interpreter.wrong_paddings", lambda *args: [])
            assert error(checkpoint.graph.compute(inputs), wanted) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in FILES if "top.keras" not in name])
def test_preprocessing_layers_become_mean_and_std(name: str) -> None:
    with read(name) as checkpoint:
        cfg = said(checkpoint, "preprocessing")
        expected = dict.fromkeys(("mean", "std"), (128 / 255,) * 3) if "sequential" in name else IMAGENET
        assert {key: cfg[key] for key in ("mean", "std")} == {
            k: pytest.approx(v, abs=1e-6) for k, v in expected.items()
        }
        assert cfg.get("input_size") == (None if "weights" in name else (3, 64, 64))


@pytest.mark.parametrize(
    ("name", "problem_type", "args"),
    [("nested", SINGLE_LABEL, {}), ("flat", None, {}), ("sequential", MULTI_LABEL, {}), ("top", SINGLE_LABEL, {}),
     ("topless", None, {"global_pool": "max"})],
)  # fmt: skip
@pytest.mark.parametrize("major", [2, 3])
def test_the_head_is_described(major: int, name: str, problem_type: str | None, args: dict[str, str]) -> None:
    with read(f"keras{major}_{name}.keras") as checkpoint:
        assert checkpoint.statements[0].problem_type == problem_type
        assert said(checkpoint, "model_args") == {"act_layer": "silu", **args}
        assert ("crop_pct" in said(checkpoint, "preprocessing")) == (name != "topless")


@pytest.mark.parametrize(
    ("name", "kind", "dialect"),
    [("keras2_nested.h5", "Keras 2.15.0 .h5, whole model", "keras2_v1"),
     ("keras2_nested_weights.h5", "Keras 2.15.0 .h5, weights only", "keras2_v1"),
     ("keras2_nested.weights.h5", "Keras 3 .weights.h5", "keras_counted"),
     ("keras2_flat.keras", "Keras 2.15.0 .keras", "keras3_v2"),
     ("keras3_nested.h5", "Keras 3.15.0 .h5, whole model", "keras3_v1"),
     ("keras3_nested.weights.h5", "Keras 3 .weights.h5", "keras3_v1")],
)  # fmt: skip
def test_formats_and_dialects_are_told_apart(name: str, kind: str, dialect: str) -> None:
    with read(name) as checkpoint:
        assert (checkpoint.format, candidate(checkpoint).dialect.name) == (kind, dialect)


@pytest.mark.parametrize("name", ["keras2_nested.h5", "keras3_nested.h5", "keras3_nested.weights.h5"])
def test_optimizer_variables_are_slots(name: str) -> None:
    with read(name) as checkpoint:
        trainable = [n for n in checkpoint.variables.model if n.rpartition("/")[2] not in
                     ("moving_mean", "moving_variance", "mean", "variance", "count")]  # fmt: skip
        # Adam keeps two for each, the step, and in Keras 3 the learning rate.
        assert len(checkpoint.variables.slots) - 2 * len(trainable) in (1, 2)


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_recognised(name: str, tmp_path: Path) -> None:
    bare = tmp_path / "file"
    bare.write_bytes((folder() / name).read_bytes())
    assert is_keras(folder() / name)
    assert is_keras(bare)


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    (tmp_path / "a.txt").write_text("PK")
    assert not any(map(is_keras, [*tmp_path.iterdir(), tmp_path, tmp_path / "none"]))


def edited(name: str, edit, tmp_path: Path) -> Path:
    """Return a copy of a .keras file with another config."""
    target = tmp_path / name
    with zipfile.ZipFile(folder() / name) as archive, zipfile.ZipFile(target, "w") as out:
        for member in archive.namelist():
            data = archive.read(member)
            if member == "config.json":
                config = json.loads(data)
                edit(config["config"]["layers"])
                data = json.dumps(config).encode()
            out.writestr(member, data)
    return target


def layer(layers: list, kind: str) -> dict:
    return next(entry for entry in layers if entry["class_name"] == kind)


def set_in(kind: str, **settings):
    return lambda layers: layer(layers, kind)["config"].update(settings)


def set_all(kind: str, **settings):
    return lambda layers: [one["config"].update(settings) for one in layers if one["class_name"] == kind]


def rename_all(old: str, new: str):
    def edit(layers: list) -> None:
        layers[:] = json.loads(json.dumps(layers).replace(f'"{old}"', f'"{new}"'))

    return edit


def rename(kind: str, other: str):
    return lambda layers: layer(layers, kind).update(class_name=other)


@pytest.mark.parametrize(
    ("edit", "message"),
    [(rename("Rescaling", "Lambda"), r"layer 'rescaling_\d' is Lambda, which no EfficientNet of Keras has"),
     (rename("Rescaling", "Flatten"), r"layer 'rescaling_\d' \(Flatten\) stands before the network"),
     (set_in("Dense", activation="relu"), "layer '.*' ends with 'relu', expected softmax, sigmoid or none"),
     (set_in("BatchNormalization", epsilon=0.5), "BatchNormalization layers with different epsilon"),
     (set_in("Activation", activation="selu"), r"activations \['selu', 'silu'\]"),
     (set_in("Normalization", axis=[1]), r"normalises over axis \[1\]")],
)  # fmt: skip
def test_what_timm_has_not_is_refused(edit, message: str, tmp_path: Path) -> None:
    with pytest.raises(NameMappingError, match=message), open_keras(edited("keras3_flat.keras", edit, tmp_path)):
        pass


def test_a_head_that_timm_has_not_is_refused_and_the_network_in_front_still_computes(tmp_path: Path) -> None:
    path = edited("keras3_flat.keras", lambda layers: layers[-2].update(class_name="Flatten"), tmp_path)
    with pytest.raises(NameMappingError, match=r"layer 'avg_pool' \(Flatten\) stands in the head"):
        convert(path, tmp_path / "out", Options())
    images, _ = outputs("keras3_flat", "native")
    with open_keras(path) as checkpoint, read("keras3_flat.keras") as whole:
        graph = checkpoint.graph
        features = graph.compute(graph.prepare(images))
        assert (features == graph.headless().compute(graph.prepare(images))).all()
        kernel, bias = (whole.variables.model[f"out/{leaf}"].read() for leaf in ("kernel", "bias"))
        assert error(features @ kernel + bias, whole.graph.compute(whole.graph.prepare(images))) < 1e-9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [0.0, 1.7e308, float("nan")])
def test_a_scaling_that_leaves_nothing_of_an_image_is_told_in_one_line(scale: float, tmp_path: Path) -> None:
    def edit(layers: list) -> None:
        layer(layers, "Rescaling")["config"].update(scale=scale, offset=1.7e308)

    with pytest.raises(CheckpointFormatError), open_keras(edited("keras3_flat.keras", edit, tmp_path)):
        pass


def resizing(**settings):
    def edit(layers: list) -> None:
        one = layer(layers, "Rescaling")
        config = {"name": one["config"]["name"], "height": 64, "width": 64, **settings}
        one.update(class_name="Resizing", config=config)

    return edit


def test_resizing_is_said_in_timms_words(tmp_path: Path) -> None:
    edit = resizing(interpolation="area", crop_to_aspect_ratio=True)
    with open_keras(edited("keras3_flat.keras", edit, tmp_path)) as checkpoint:
        cfg = said(checkpoint, "preprocessing")
        assert (cfg["interpolation"], cfg["crop_mode"], cfg["crop_pct"]) == ("box", "center", 1.0)
    assert str_to_pil_interp("box") is Image.Resampling.BOX


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, ["makes images smaller without smoothing them"]),
        ({"interpolation": "bicubic", "antialias": True}, []),
        ({"interpolation": "nearest"}, []),
        ({"interpolation": "area"}, []),
        ({"antialias": True, "pad_to_aspect_ratio": True, "fill_value": 9.0}, ["pads with constant 9.0, timm's"]),
    ],
)
def test_what_resizing_does_otherwise_than_timm_is_said(settings: dict, says: list[str], tmp_path: Path) -> None:
    with open_keras(edited("keras3_flat.keras", resizing(**settings), tmp_path)) as checkpoint:
        found = [note for note in checkpoint.notes if "timm's transforms" in note]
    assert len(found) == len(says)
    assert all(part in note for part, note in zip(says, found, strict=True))


def test_an_interpolation_that_timm_has_not_is_refused(tmp_path: Path) -> None:
    edit = resizing(interpolation="gaussian")
    with (
        pytest.raises(NameMappingError, match="resizes by 'gaussian'; timm has bilinear, nearest"),
        open_keras(edited("keras3_flat.keras", edit, tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    ("kind", "config", "problem_type"),
    [
        ("Softmax", {"axis": -1}, SINGLE_LABEL),
        ("Sigmoid", {}, MULTI_LABEL),
        ("TFOpLambda", {"function": "nn.softmax"}, SINGLE_LABEL),
        ("TFOpLambda", {"function": "math.sigmoid"}, MULTI_LABEL),
    ],
)
def test_a_softmax_or_sigmoid_behind_the_classifier_is_its_activation(
    kind: str, config: dict, problem_type: str, tmp_path: Path
) -> None:
    def edit(layers: list) -> None:
        layer(layers, "Dense")["config"]["activation"] = "linear"
        layers.append({"class_name": kind, "config": {"name": "last", **config}})

    with open_keras(edited("keras3_sequential.keras", edit, tmp_path)) as checkpoint:
        assert checkpoint.statements[0].problem_type == problem_type


def test_a_second_dense_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.weights.h5"
    path.write_bytes((folder() / "keras3_nested.weights.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file["layers/dense_1/vars/0"] = np.zeros((5, 5), np.float32)
    with pytest.raises(
        NameMappingError, match=r"left over after .*: dense_1/kernel .*, flowers/bias .*, flowers/kernel \(\d+, \d+\)\."
    ):
        convert(path, tmp_path / "out", Options(verify=False))


def test_a_model_in_python_code_is_read_by_its_attributes(tmp_path: Path) -> None:
    """A subclass of keras.Model with `self.base` and `self.out`, saved with `save_weights`."""
    path = tmp_path / "mine.weights.h5"
    path.write_bytes((folder() / "keras2_nested.weights.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file.move("layers/functional", "base")
        file.move("layers/dense", "out")
    with open_keras(path) as mine, read("keras2_nested.weights.h5") as plain:
        one, other = candidate(mine), candidate(plain)
        assert (one.match, one.dialect, one.prefix) == (other.match, other.dialect, other.prefix)
        assert set(one.classifier.values()) == {"out/kernel", "out/bias"}


@pytest.mark.parametrize("name", ["keras3_top.keras", "keras2_topless.keras", "keras2_nested_saved"])
def test_the_whole_conversion_is_verified_by_the_graph(name: str, tmp_path: Path) -> None:
    report = convert(folder() / name, tmp_path / "out", Options())
    assert [proof.kind for proof in report.proofs] == ["graph"]
    assert report.framework == "keras"


@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_mean_or_std_that_is_a_little_off_is_refused(key: str, tmp_path: Path) -> None:
    with read("keras3_flat.keras") as checkpoint:
        right = said(checkpoint, "preprocessing")[key]
    options = Options(pretrained_cfg={key: tuple(value + 1e-3 for value in right)})
    with pytest.raises(VerificationError, match=r"mean and std of config\.json are not the source's"):
        convert(folder() / "keras3_flat.keras", tmp_path / "out", options)
    convert(folder() / "keras3_flat.keras", tmp_path / "out", Options(pretrained_cfg={key: right}))


def test_other_numerics_become_arguments_of_the_model(tmp_path: Path) -> None:
    with open_keras(edited("keras3_flat.keras", set_all("BatchNormalization", epsilon=0.01), tmp_path)) as checkpoint:
        assert said(checkpoint, "model_args") == {"act_layer": "silu", "bn_eps": 0.01}
        images, wanted = outputs("keras3_flat", "native")
        found = logits(converted(checkpoint), images, said(checkpoint, "preprocessing"))
        assert (
            error(found, checkpoint.graph.compute(checkpoint.graph.prepare(images))) < TOLERANCE < error(found, wanted)
        )


def test_a_size_for_which_the_graph_was_not_padded_is_changed(tmp_path: Path) -> None:
    def other_size(layers: list) -> None:
        layers[0]["config"]["batch_shape"] = [None, 75, 91, 3]

    with open_keras(edited("keras3_nested.keras", other_size, tmp_path)) as checkpoint:
        assert not checkpoint.graph.fits(75, 91)
        images = outputs("keras3_nested", "odd")[0].repeat(2, 1)[:, :64].repeat(2, 2)[:, :, :96]
        found = logits(converted(checkpoint), images, said(checkpoint, "preprocessing"))
        assert error(found, checkpoint.graph.compute(checkpoint.graph.prepare(images))) < TOLERANCE

    path = edited("keras3_nested.keras", other_size, tmp_path)
    report = convert(path, tmp_path / "out", Options(verify=False))
    assert tuple(report.pretrained_cfg["input_size"]) == (3, 64, 96)
    assert any("assumed in place of 75x91, for which the graph pads otherwise" in note for note in report.notes)
    options = Options(verify=False, pretrained_cfg={"input_size": (3, 75, 91)})
    assert tuple(convert(path, tmp_path / "asked", options).pretrained_cfg["input_size"]) == (3, 75, 91)


def test_weights_and_config_that_belong_apart_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointFormatError, match="in the weights, 'stem' in the config"),
        open_keras(edited("keras3_flat.keras", rename_all("stem_conv", "stem"), tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "HDF5 is damaged or cut"), (b"PK\3\4", "broken .keras file"), (b"<html>", "HDF5 is damaged or cut")],
)
def test_files_that_are_no_keras_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.keras"
    path.write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=message), open_keras(path):
        pass


def test_a_member_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.writestr(name, b"{}" if name.endswith("json") else bytes(10 << 20))
    with (
        pytest.raises(CheckpointFormatError, match=r"unpacks \d+ bytes to 10485760: refused"),
        open_keras(path),
    ):
        pass


def test_a_compressed_keras_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "packed.keras"
    with zipfile.ZipFile(folder() / "keras3_flat.keras") as stored, zipfile.ZipFile(path, "w", 8) as out:
        for name in stored.namelist():
            out.writestr(name, stored.read(name))
    with open_keras(path) as packed, read("keras3_flat.keras") as plain:
        assert packed.variables.model.keys() == plain.variables.model.keys()
        name = "out/kernel"
        assert (packed.variables.model[name].read() == plain.variables.model[name].read()).all()


def test_a_flipped_byte_of_the_weights_is_found(tmp_path: Path) -> None:
    data = bytearray((folder() / "keras3_flat.keras").read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "flipped.keras"
    path.write_bytes(data)
    with (
        pytest.raises(CheckpointFormatError, match=r"broken .keras file: Bad CRC-32 for file 'model.weights.h5'"),
        open_keras(path),
    ):
        pass


def test_a_stored_size_beyond_the_file_is_refused(tmp_path: Path) -> None:
    data = (folder() / "keras3_flat.keras").read_bytes()
    with zipfile.ZipFile(folder() / "keras3_flat.keras") as archive:
        size = archive.getinfo("model.weights.h5").file_size
    path = tmp_path / "long.keras"
    path.write_bytes(data.replace(struct.pack("<II", size, size), struct.pack("<II", size * 9, size * 9)))
    with pytest.raises(CheckpointFormatError, match=r"model.weights.h5 is cut"), open_keras(path):
        pass
