"""predict.py and its command: the labels of photos from names and folders, and one line for what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from tests.hub_server import LocalHub
from tests.processes import imported_by, python
from tests.small_models import SMALL
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError
from timm_effnet_ext.files.hub_format import MULTI_LABEL, SINGLE_LABEL
from timm_effnet_ext.predict.cam import explain
from timm_effnet_ext.predict.classifier import load_classifier, make_classifier
from timm_effnet_ext.predict.photos import read_photo

Capture = pytest.CaptureFixture[str]

LABELS = ["ash", "birch", "cedar"]


def write_folder(folder: Path, labels: list[str] | None = None, **kwargs: Any) -> Path:
    """Write a tiny Lite0 with random weights as a timm folder."""
    model = timm.create_model("hucorz_efficientnet_lite0", **{"num_classes": 3, **SMALL, **kwargs})
    config = {"label_names": labels} if labels else {}
    save_for_hf(model, str(folder), model_config=config, safe_serialization=True)
    return folder


def edit_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", LABELS)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_probabilities_are_those_of_timms_own_recipe(folder: Path, photo: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        expected = model(transform(Image.open(photo)).unsqueeze(0)).softmax(-1)[0]
    top = load_classifier(str(folder)).top(read_photo(photo), k=3)
    assert [one.index for one in top] == expected.argsort(descending=True).tolist()
    assert [one.probability for one in top] == expected.sort(descending=True).values.tolist()
    assert [one.label for one in top] == [LABELS[one.index] for one in top]


def test_images_have_the_size_that_the_weights_are_tested_at() -> None:
    model = timm.create_model("hucorz_efficientnetv2_b0", **SMALL)  # trained at 192, tested at 224
    assert make_classifier(model).image(Image.new("RGB", (50, 70))).shape == (1, 3, 224, 224)


def test_a_thousand_classes_are_imagenets() -> None:
    classifier = make_classifier(timm.create_model("hucorz_efficientnet_lite0", **SMALL))
    assert classifier.label(985) == "daisy"


def test_classes_without_labels_have_their_number_alone(tmp_path: Path, photo: Path, capsys: Capture) -> None:
    folder = write_folder(tmp_path / "bare")
    assert main(["predict", str(folder), str(photo), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert sorted(one["index"] for one in record["top"]) == [0, 1, 2]
    assert {one["label"] for one in record["top"]} == {None}


def test_the_table_has_k_rows_for_each_photo(folder: Path, photo: Path, capsys: Capture) -> None:
    assert main(["predict", str(folder), str(photo), str(photo), "--topk", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    meaning = "softmax of 3 outputs (single_label_classification), from the number of outputs alone"
    assert lines[:3] == [f"{meaning}; labels: with the weights", "", str(photo)]
    assert lines[3].split() == ["probability", "class", "label"]
    assert lines[2:8] == lines[8:]
    probability, index, label = lines[5].split()
    assert LABELS[int(index)] == label
    assert float(probability) > 1 / 3


def test_cam_is_written_at_the_size_of_the_photo(folder: Path, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(folder), str(photo), "--cam", str(tmp_path / "cam.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["cam"] == str(tmp_path / "cam.png")
    assert Image.open(tmp_path / "cam.png").size == (80, 60)


def test_cams_of_several_photos_are_named_after_them(folder: Path, photo: Path, tmp_path: Path) -> None:
    other = photo.with_name("other.jpg")
    Image.open(photo).save(other)
    assert main(["predict", str(folder), str(photo), str(other), "--cam", str(tmp_path / "cam.png")]) == 0
    assert {path.name for path in tmp_path.glob("cam*")} == {"cam-photo.png", "cam-other.png"}


def test_a_cam_never_overwrites_a_photo(folder: Path, photo: Path, capsys: Capture) -> None:
    before = photo.read_bytes()
    assert main(["predict", str(folder), str(photo), "--cam", str(photo)]) == 1
    assert capsys.readouterr().err == f"error: {photo}: --cam would overwrite the photo itself. Name another file\n"
    assert photo.read_bytes() == before


def test_photos_of_one_name_cannot_share_a_cam(folder: Path, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(folder), str(photo), str(photo), "--cam", str(tmp_path / "cam.png")]) == 1
    assert "two photos have the same name" in capsys.readouterr().err


def test_a_cam_needs_its_folder(folder: Path, photo: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(folder), str(photo), "--cam", str(tmp_path / "no" / "cam.png")]) == 1
    assert f"there is no folder {tmp_path / 'no'}" in capsys.readouterr().err


def test_a_cut_photo_is_found_before_any_cam_is_written(
    folder: Path, photo: Path, tmp_path: Path, capsys: Capture
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:-200])
    assert main(["predict", str(folder), str(photo), str(cut), "--cam", str(tmp_path / "cam.png")]) == 1
    out, err = capsys.readouterr()
    assert (out, err.startswith(f"error: {cut}: cannot be read")) == ("", True)
    assert not list(tmp_path.glob("cam*"))


def test_a_checkpoint_is_to_be_converted_first(tmp_path: Path) -> None:
    path = tmp_path / "last.pth.tar"
    path.write_bytes(b"PK")
    with pytest.raises(EffNetExtError, match=r"last.pth.tar: is a file. `timm-effnet-ext convert` makes a folder"):
        load_classifier(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "efficientnet_b9",
            r"'efficientnet_b9' is neither a folder nor hf-hub:USER/REPO.*did you mean efficientnet_b8",
        ),
        ("efficientnet_lite0.in22k", r"hucorz_efficientnet_lite0 has no weights 'in22k', only in1k"),
        ("efficientnetv2_b0.in21k", r"hucorz_efficientnetv2_b0.in21k: nobody publishes these weights for timm"),
        ("hf-hub:a/b/c", r"names a part of a repository, expected hf-hub:USER/REPO\[@REVISION\]$"),
        ("hf-hub:a", r"hf-hub:a: expected hf-hub:USER/REPO"),
        ("hf-hub:spaces/a/b", r"is a space. Weights are taken from a model's repository alone"),
    ],
)
def test_a_wrong_model_name_is_explained(name: str, message: str) -> None:
    with pytest.raises(EffNetExtError, match=message):
        load_classifier(name)


def test_a_repository_that_is_not_timms_is_to_be_converted(local_hub: LocalHub) -> None:
    local_hub.add("a/b", {"config.json": b'{"model_type": "efficientnet"}'})
    with pytest.raises(CheckpointFormatError, match=r"not timm's, convert them: .* hf-hub:a/b -o FOLDER"):
        load_classifier("hf-hub:a/b")


@pytest.mark.parametrize("name", ["hf-hub:a/b@refs/pr/1", "HF_HUB:models/a/b@refs/pr/1"])
def test_a_revision_is_named_as_for_convert(local_hub: LocalHub, name: str) -> None:
    repo = local_hub.add("a/b", {})
    repo.commit("refs/pr/1", "proposed", {"config.json": local_hub.store("config.json", b"{}")})
    with pytest.raises(CheckpointFormatError, match="make no model"):
        load_classifier(name)
    assert any(request.endswith("/resolve/refs/pr/1/config.json") for request in local_hub.requests)


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match=r"holds no config.json. Is it a timm folder\?"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", "{not json", "\x00", "[" * 100_000])
def test_a_config_that_is_none_is_named(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointFormatError, match=r"config.json: is no timm config with an 'architecture'"):
        load_classifier(str(folder))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"architecture": "nosuchnet"}, "names the architecture 'nosuchnet', which timm does not know"),
        ({"architecture": 5}, "names the architecture 5, which timm does not know"),
        ({"architecture": "tf_mobilenetv3_small_075"}, "its config.json and its weights make no model"),
        ({"architecture": "hucorz_efficientnet_b0"}, r"the weights are another model's. It fits .*efficientnet_lite0"),
        ({"pretrained_cfg": 5}, "its config.json and its weights make no model"),
        ({"model_args": {"colour": "red"}}, "its config.json and its weights make no model"),
        ({"label_names": [1, 2, 3]}, "its config.json and its weights make no model"),
        ({"label_descriptions": {name: [name] for name in LABELS}}, r"the label of class 0 is no text: \['ash'\]"),
        ({"pretrained_cfg": {"input_size": [3, "x", 64]}}, "its config.json and its weights make no model"),
        ({"pretrained_cfg": {"mean": "x"}}, "its config.json and its weights make no model"),
        ({"pretrained_cfg": {"std": [float("nan")] * 3}}, "an image has values that are no numbers"),
        (
            {"pretrained_cfg": {"input_size": [3, 99999, 99999]}},
            "images of 99999 x 99999 pixels, expected sides of 1",
        ),
    ],
)
def test_a_config_of_something_else_is_refused(entries: dict[str, Any], message: str, folder: Path) -> None:
    edit_config(folder, **entries)
    with pytest.raises(CheckpointFormatError, match=message):
        load_classifier(str(folder))


def test_a_model_that_cannot_be_run_is_one_line(folder: Path, photo: Path, capsys: Capture) -> None:
    edit_config(folder, global_pool="", model_args={**SMALL, "global_pool": ""})
    assert main(["predict", str(folder), str(photo)]) == 1
    assert capsys.readouterr().err.startswith("error: the model cannot be run on (1, 3, 224, 224): mat1 and mat2")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointFormatError, match="No suitable checkpoints found"):
        load_classifier(str(folder))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"num_classes": 0}, r"has no classifier \(num_classes=0\)"), ({"in_chans": 4}, "takes images of 4 channels")],
)
def test_a_model_that_cannot_label_photos_says_why(kwargs: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match=message):
        load_classifier(str(write_folder(tmp_path / "model", **kwargs)))


@pytest.mark.parametrize(
    ("classes", "labels", "config", "expected"),
    [
        (1, None, {}, [(0, None, "sigmoid")]),
        (1, ["ripe"], {}, [(0, "ripe", "sigmoid")]),
        (1, ["unripe", "ripe"], {}, [(0, "unripe", "1 - sigmoid"), (1, "ripe", "sigmoid")]),
        (3, LABELS, {"problem_type": MULTI_LABEL}, [(i, label, "sigmoid") for i, label in enumerate(LABELS)]),
        (3, LABELS, {"problem_type": SINGLE_LABEL}, [(i, label, "softmax") for i, label in enumerate(LABELS)]),
    ],
)
def test_probabilities_are_what_the_outputs_mean(
    classes: int,
    labels: list[str] | None,
    config: dict[str, str],
    expected: list[tuple[int, str | None, str]],
    photo: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    folder = write_folder(tmp_path / "model", num_classes=classes)
    edit_config(folder, **config, **({"label_names": labels} if labels else {}))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        logits = model(transform(Image.open(photo)).unsqueeze(0))[0]
    functions = {"sigmoid": logits.sigmoid(), "1 - sigmoid": 1 - logits.sigmoid(), "softmax": logits.softmax(-1)}
    assert main(["predict", str(folder), str(photo), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    found = {(one["index"], one["label"]): one["probability"] for one in record["top"]}
    assert found == {
        (index, label): pytest.approx(float(functions[name][min(index, classes - 1)]), rel=1e-5)  # float32, same sums
        for index, label, name in expected
    }
    assert [*found.values()] == sorted(found.values(), reverse=True)
    assert (record["problem_type"], record["activation"]) == (
        config.get("problem_type", MULTI_LABEL if classes == 1 else SINGLE_LABEL),
        expected[-1][2],
    )


def test_a_cam_of_no_is_of_what_speaks_against_yes(photo: Path, tmp_path: Path) -> None:
    classifier = load_classifier(str(write_folder(tmp_path / "model", ["unripe", "ripe"], num_classes=1)))
    assert [classifier.output_of(index) for index in (0, 1)] == [(0, -1), (0, 1)]
    no, yes = (explain(classifier, read_photo(photo), index) for index in (0, 1))
    assert np.asarray(no).shape == np.asarray(yes).shape == (60, 80, 3)
    assert not np.array_equal(np.asarray(no), np.asarray(yes))


def test_a_grey_model_sees_photos_in_grey(photo: Path, tmp_path: Path) -> None:
    classifier = load_classifier(str(write_folder(tmp_path / "model", LABELS, in_chans=1)))
    assert classifier.image(read_photo(photo)).shape == (1, 1, 224, 224)
    assert len(classifier.top(read_photo(photo))) == 3


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({"problem_type": "regression"}, EffNetExtError, r"its outputs are numbers \(regression\), no classes"),
        ({"problem_type": "guess"}, CheckpointFormatError, "problem_type makes no sense: 'guess'"),
        ({"label_names": ["a", "b"]}, CheckpointFormatError, "2 label names for 3 outputs"),
        ({"label_names": ["a"] * 4}, CheckpointFormatError, "4 label names for 3 outputs"),
    ],
)
def test_outputs_that_are_no_classes_are_refused(
    entries: dict[str, Any], error: type[Exception], message: str, folder: Path
) -> None:
    edit_config(folder, **entries)
    with pytest.raises(error, match=message):
        load_classifier(str(folder))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "utf-16"])
def test_labels_that_an_encoding_lacks_are_escaped(encoding: str, photo: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", ["日本", "čeština", "\x1b[1mbold"])
    done = subprocess.run(
        [sys.executable, "-m", "timm_effnet_ext", "predict", str(folder), str(photo)],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode(encoding)
    assert "bold" in said
    assert "\x1b" not in said
    assert "čeština" in said or r"\u010de" in said


@pytest.mark.parametrize("option", [["--topk", "0"], ["--topk", "many"], ["--cam", "cam.doc"], ["--nosuch"]])
def test_a_senseless_option_is_a_usage_error(option: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["predict", "efficientnet_b0", "x.jpg", *option])
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [
        (["efficientnet_b0", "nosuch.jpg"], 1, "error: nosuch.jpg: cannot be read (No such file or directory)"),
        (["nosuch.jpg"], 2, "error: the following arguments are required: IMAGE"),
    ],
)
def test_failures_end_in_one_line_and_a_code(arguments: list[str], code: int, last: str) -> None:
    done = python("-m", "timm_effnet_ext", "predict", *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(last)
    assert code == 2 or done.stderr.count("\n") == 1


def test_a_missing_photo_is_found_before_torch_is_loaded() -> None:
    assert imported_by(["predict", "efficientnet_b0", "nosuch.jpg"], "torch", "timm", code=1) == set()
