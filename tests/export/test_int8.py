"""Files in 8-bit integers: what is said of their answers is so, and too few that stay the same are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import save_for_hf

from tests.small_models import calibrated, create
from timm_effnet_ext.errors import EffNetExtError, VerificationError
from timm_effnet_ext.export import int8
from timm_effnet_ext.export.write import ExportOptions, export
from timm_effnet_ext.predict.classifier import Classifier, load_classifier
from timm_effnet_ext.predict.photos import photo_files, read_photo

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIDE = 64  # pixels


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return photos of coloured noise that is smooth enough to look different to a network."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 80), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


def classifier(folder: Path, num_classes: int, **config: object) -> Classifier:
    model = calibrated(create("hucorz_efficientnet_b0", width_mult=0.25, depth_mult=0.3, num_classes=num_classes), SIDE)
    model.pretrained_cfg |= {"input_size": (3, SIDE, SIDE), "test_input_size": None}
    save_for_hf(model, str(folder), model_config=config, safe_serialization=True)
    return load_classifier(str(folder))


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_what_is_said_of_the_answers_is_so(problem_type: str, photos: Path, tmp_path: Path) -> None:
    model = classifier(tmp_path / "model", 3, problem_type=problem_type)
    file = tmp_path / "model.onnx"
    answers = export(model, file, ExportOptions(int8=True, images=photos, same_answers=0.1)).answers
    found, judging = load_classifier(str(file)), photo_files(photos)[1::2]
    p, q = (torch.cat([one.probabilities(one.image(read_photo(path))) for path in judging]) for one in (model, found))
    same = (p.argmax(-1) == q.argmax(-1)) if model.activation == "softmax" else ((p > 0.5) == (q > 0.5)).all(-1)
    assert answers is not None
    assert (answers.photos, answers.same) == (12, int(same.sum()))
    assert answers.largest_move == pytest.approx(float((p - q).abs().max()), abs=1e-5)
    assert 0 < answers.mean_move <= answers.largest_move


def test_what_is_in_integers_and_what_stays_in_float(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    options = ExportOptions(int8=True, images=photos, same_answers=0.1, with_preprocessing=True)
    export(classifier(tmp_path / "model", 3), file, options)
    nodes = onnx.load(file).graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    pairs = [(node.op_type, made_by.get(node.input[0])) for node in nodes]
    in_integers = {operator for operator, before in pairs if before == "DequantizeLinear"}
    assert in_integers == {"Conv", "Add", "Sigmoid", "Mul", "GlobalAveragePool"}  # SiLU is a Sigmoid and a Mul
    convs = [before for operator, before in pairs if operator == "Conv"]
    assert convs[0] == "Add"  # of the preparation, which the first convolution takes as it is
    assert convs.count("Mul") > 1  # SiLU and second convolution of squeeze-and-excitation, which compute of the means
    poolings = [before for operator, before in pairs if operator == "QuantizeLinear"].count("GlobalAveragePool")
    assert poolings == len([operator for operator, _ in pairs if operator == "GlobalAveragePool"]) - 1
    assert pairs[-3:] == [("Reshape", "GlobalAveragePool"), ("Gemm", "Reshape"), ("Softmax", "Gemm")]


def test_too_few_answers_that_stay_the_same_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "FLOAT_LAYERS", (0, 1))
    model = classifier(tmp_path / "model", 1000)  # so many that the first changes with any rounding
    with pytest.raises(
        VerificationError, match=r"in int8, .*, \d+ of 12 answers .* Fewer than the share of 1 .* Nothing"
    ):
        export(model, tmp_path / "model.onnx", ExportOptions(int8=True, images=photos, same_answers=1.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_handful_of_photos_is_too_few(photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in photo_files(photos)[:15]:
        (few / path.name).write_bytes(path.read_bytes())
        (few / f"copy of {path.name}").write_bytes(path.read_bytes())
    model = classifier(tmp_path / "model", 3)
    with pytest.raises(EffNetExtError, match="few: 15 different photos, expected at least 16"):
        export(model, tmp_path / "model.onnx", ExportOptions(int8=True, images=few))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["num_classes"] == 3
