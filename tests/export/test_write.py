"""Exported files compute what the model computes, for every size that they promise, and say what the model knows."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

import timm_effnet_ext
from tests.closeness import FLOAT32, assert_close
from tests.predict.test_classifier import LABELS, write_folder
from tests.small_models import SMALL, calibrated, create, images
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.errors import EffNetExtError, VerificationError
from timm_effnet_ext.export import write
from timm_effnet_ext.export.graph import for_inference, to_onnx
from timm_effnet_ext.export.write import ExportOptions, export
from timm_effnet_ext.predict.classifier import load_classifier
from timm_effnet_ext.predict.onnx_file import OnnxModel

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# One of each kind of block, with SE and without, every activation; timm's own twin has its own class of convolution.
NAMES = ["hucorz_efficientnet_b0", "hucorz_efficientnet_es", "hucorz_efficientnet_lite0", "hucorz_efficientnetv2_s"]
SIZES = [(1, 64, 64), (2, 75, 91), (3, 33, 98)]  # batch, height, width


def operators(program: Any, file: Path) -> list[str]:
    program.save(file)
    return [node.op_type for node in onnx.load(file).graph.node]


@pytest.mark.parametrize("name", NAMES)
def test_one_file_serves_every_batch_and_size_without_padding(name: str, tmp_path: Path) -> None:
    model = calibrated(create(name, **SMALL, num_classes=7))
    file = tmp_path / "model.onnx"
    found = operators(to_onnx(for_inference(model), 3, None, "logits"), file)
    assert not {"Pad", "BatchNormalization"} & {*found}
    assert found.count("Shape") == torch.__version__.startswith("2.8.")  # which writes one, for the classifier
    run = OnnxModel(file).run
    for batch, *size in SIZES:
        x = images(*size, batch=batch)
        with torch.inference_mode():
            assert_close(run(x), model(x), FLOAT32)


def test_timms_own_models_have_the_same_graph(tmp_path: Path) -> None:
    ours, theirs = (
        operators(
            to_onnx(for_inference(create(f"{prefix}efficientnet_b0").eval()), 3, None, "logits"), tmp_path / "m.onnx"
        )
        for prefix in ("hucorz_", "tf_")
    )
    assert sorted(ours) == sorted(theirs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", LABELS)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_names_no_file_of_this_machine(suffix: str, folder: Path, tmp_path: Path) -> None:
    export(load_classifier(str(folder)), file := tmp_path / f"model{suffix}")
    if suffix == ".pt2":
        with zipfile.ZipFile(file) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    else:
        content = file.read_bytes()
    assert b"conv_pwl" in content  # modules have their names
    for module in (timm_effnet_ext, timm, torch):
        assert str(Path(module.__file__ or "").parent).encode() not in content


def test_labels_that_are_no_utf8_come_back_as_they_were(tmp_path: Path) -> None:
    labels = ["ash", "birch\ud800", "cedar"]  # half of a pair of UTF-16, as JSON can have it
    export(load_classifier(str(write_folder(tmp_path / "model", labels))), file := tmp_path / "model.onnx")
    assert [load_classifier(str(file)).label(index) for index in range(3)] == labels


@pytest.mark.parametrize("options", [[], ["--static"], ["--with-preprocessing"], ["--static", "--with-preprocessing"]])
def test_predict_says_the_same_of_the_file_as_of_the_model(
    options: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, file = tmp_path / "photo.png", tmp_path / "model.onnx"
    Image.radial_gradient("L").convert("RGB").save(photo)
    assert main(["export", str(folder), "-o", str(file), *options]) == 0
    capsys.readouterr()
    found, expected = (
        json.loads((main(["predict", str(model), str(photo), "--json"]), capsys.readouterr().out)[1])[0]["top"]
        for model in (file, folder)
    )
    assert [(one["index"], one["label"]) for one in found] == [(one["index"], one["label"]) for one in expected]
    assert_close(*(torch.tensor([one["probability"] for one in top]) for top in (found, expected)), FLOAT32)


def test_a_yes_or_no_keeps_its_two_names(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", ["cat", "dog"], num_classes=1)
    for with_preprocessing in (False, True):
        export(
            load_classifier(str(folder)),
            tmp_path / f"{with_preprocessing}.onnx",
            ExportOptions(with_preprocessing=with_preprocessing),
        )
        found = load_classifier(str(tmp_path / f"{with_preprocessing}.onnx"))
        expected = load_classifier(str(folder))
        photo = Image.radial_gradient("L").convert("RGB")
        assert (found.meaning, found.top(photo)[0].label) == (expected.meaning, expected.top(photo)[0].label)
        assert found.top(photo)[0].probability == pytest.approx(expected.top(photo)[0].probability, rel=1e-5)


def test_a_program_says_what_the_file_says(folder: Path, tmp_path: Path) -> None:
    classifier = load_classifier(str(folder))
    export(classifier, tmp_path / "model.pt2")
    said = {"config.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=said).module()
    assert json.loads(json.loads(said["config.json"])["label_names"]) == LABELS
    with torch.inference_mode():
        assert_close(program(images(75, 91)), classifier.model(images(75, 91)), FLOAT32)


def test_what_differs_is_not_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_another_model(model: Any) -> Any:
        torch.manual_seed(1)
        other = timm.create_model("hucorz_efficientnet_lite0", num_classes=3, width_mult=0.1, depth_mult=0.1)
        return for_inference(other)

    monkeypatch.setattr(write, "for_inference", of_another_model)
    with pytest.raises(VerificationError, match=r"model\.onnx differs from the model by .* \(allowed: 0\.0001\)"):
        export(load_classifier(str(folder)), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "model.tflite"], "model.tflite: ends in neither .onnx nor .pt2"),
        (["-o", "caf\udce9.onnx"], "caf .onnx: the path is no UTF-8. Choose another file"),
        (["-o", "gone/model.onnx"], "gone/model.onnx: there is no folder gone"),
        (["-o", "there.onnx"], "there.onnx: exists already. Choose another file, or pass --overwrite"),
        (
            ["-o", "model.pt2", "--int8", "--images", "."],
            "--int8 takes --images FOLDER to calibrate with, and writes .onnx alone",
        ),
        (["-o", "model.onnx", "--int8"], "--int8 takes --images FOLDER to calibrate with, and writes .onnx alone"),
    ],
)
def test_slips_are_one_line(
    args: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").write_text("mine")
    assert main(["export", str(folder), *args]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert Path("there.onnx").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "there.onnx"]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_full_disk_is_one_line_that_names_the_file(
    suffix: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = tmp_path / f"model{suffix}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        assert main(["export", str(folder), "-o", str(file), "--static"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capsys.readouterr().err == f"error: [Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{file}'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_onnxruntime_it_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm_effnet_ext.predict.onnx_file.find_spec", lambda name: None)
    with pytest.raises(EffNetExtError, match=r"pip install 'timm_effnet_ext\[onnx\]'"):
        export(load_classifier(str(folder)), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.metadata_props.clear(), "says nothing of crop_mode, crop_pct"),
        (lambda m: setattr(_said(m, "problem_type"), "value", "guess"), "problem_type makes no sense: 'guess'"),
        (lambda m: setattr(_said(m, "mean"), "value", "[1"), "what it says of its images or labels makes no sense"),
        (lambda m: setattr(_said(m, "input_size"), "value", "[3, 0, 5]"), "images of 0 x 5 pixels, expected sides"),
        (lambda m: setattr(_said(m, "input_size"), "value", "[3, 9, 99999]"), "images of 9 x 99999 pixels, expected"),
        (lambda m: setattr(_said(m, "std"), "value", "[NaN, 1, 1]"), "values that are no numbers"),
        (lambda m: setattr(_said(m, "label_names"), "value", '["ash"]'), "1 label names for 3 outputs"),
        (lambda m: setattr(_said(m, "num_classes"), "value", "5"), "it has 5 outputs, its graph has 3"),
        (lambda m: setattr(m.graph.input[0], "name", "x"), "cannot load it"),
    ],
)
def test_a_changed_file_is_one_line(change: Any, message: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    export(load_classifier(str(folder)), file, ExportOptions(static=True))
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    with pytest.raises(EffNetExtError, match=r"model\.onnx: .*" + message):
        load_classifier(str(file))


@pytest.mark.parametrize("command", [["predict"], ["export", "-o", "again.onnx"]])
def test_a_file_that_cannot_be_used_is_named_in_one_line(
    command: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").save("photo.png")
    export(load_classifier(str(folder)), Path("model.onnx"), ExportOptions(static=True))
    model = onnx.load("model.onnx")
    _said(model, "input_size").value = "[3, 96, 96]"  # the graph takes images of 224 pixels
    _said(model, "problem_type_from").value = "\x1b[1mme"
    onnx.save(model, "model.onnx")
    assert main([*command, "model.onnx", *(["photo.png"] if command == ["predict"] else [])]) == 1
    out, err = capsys.readouterr()
    why = {"predict": "model.onnx: ONNX Runtime cannot run it", "export": "an exported file is not exported again"}
    assert err.startswith(f"error: {why[command[0]]}")
    assert (err.count("\n"), "\x1b" in out, Path("again.onnx").exists()) == (1, False, False)


def test_words_that_are_no_utf8_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(load_classifier(str(folder)), file := tmp_path / "model.onnx", ExportOptions(static=True))
    file.write_bytes(file.read_bytes().replace(b"problem_type", b"problem\xfftype"))
    with pytest.raises(EffNetExtError, match=r"model\.onnx: ONNX Runtime cannot load it \('utf-8' codec"):
        load_classifier(str(file))
    assert capsys.readouterr().out == ""


def _said(model: Any, key: str) -> Any:
    return next(one for one in model.metadata_props if one.key == key)


def test_a_cam_of_a_file_names_the_way_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, file = tmp_path / "photo.png", tmp_path / "model.onnx"
    Image.radial_gradient("L").save(photo)
    export(load_classifier(str(folder)), file, ExportOptions(static=True))
    assert main(["predict", str(file), str(photo), "--cam", str(tmp_path / "cam.png")]) == 1
    assert "name the model instead" in capsys.readouterr().err


def test_a_grey_model_is_verified_on_grey_photos(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", LABELS, in_chans=1)
    exported = export(load_classifier(str(folder)), tmp_path / "grey.onnx")
    assert exported.photos > 0
