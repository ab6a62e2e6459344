"""verification.py finds what is wrong, says how wrong, and lets pass what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.convert._sources import DATA
from tests.small_models import SMALL, create
from timm_effnet_ext.convert.verification import (
    MAX_TOLERANCE,
    TOLERANCE,
    Converted,
    by_graph,
    by_reference,
    trial_size,
    verify,
)
from timm_effnet_ext.errors import CheckpointFormatError, VerificationError

REFERENCE = DATA / "tpu_lite0" / "reference_raw.npz"


def test_tensorflows_own_outputs_pass(converted: Converted) -> None:
    proof = by_reference(converted, REFERENCE)
    assert proof.kind == "reference"
    assert proof.figures["relative"] < 1e-5


def test_images_before_normalisation_are_normalised(converted: Converted, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    output = converted.run(converted.normalise(images))
    np.savez(tmp_path / "r.npz", images=images, output=output)
    assert by_reference(converted, tmp_path / "r.npz").figures["max_abs_diff"] < 1e-6
    np.savez(tmp_path / "r.npz", input=images.astype("f4"), output=output)
    with pytest.raises(VerificationError):
        by_reference(converted, tmp_path / "r.npz")


# What a wrong table of names would do to the weights of one layer.
MISTAKES = {
    "kernel transposed": lambda state: state["conv_stem.weight"].transpose(2, 3),
    "channels permuted": lambda state: state["conv_stem.weight"].flip(0),
    "half of the weight": lambda state: state["conv_stem.weight"] / 2,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_one_layer_is_found(mistake: str, lite0_folder: Path, tmp_path: Path) -> None:
    for path in lite0_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(lite0_folder / "model.safetensors")
    state["conv_stem.weight"] = MISTAKES[mistake](state).contiguous()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(VerificationError, match=r"reference, 2 batches .* allowed 1e-04\)\. Nothing was written"):
        verify(tmp_path, reference=REFERENCE)


@pytest.mark.parametrize(("pad_type", "bn_eps"), [("", 1e-3), ("same", 1e-5)])
def test_other_numerics_are_found(pad_type: str, bn_eps: float, lite0_folder: Path, tmp_path: Path) -> None:
    for path in lite0_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = (lite0_folder / "config.json").read_text()
    args = f'"model_args": {{"pad_type": "{pad_type}", "bn_eps": {bn_eps}, '
    (tmp_path / "config.json").write_text(config.replace('"model_args": {', args))
    with pytest.raises(VerificationError):
        verify(tmp_path, reference=REFERENCE)


class _Graph:
    """The network itself as its own graph; `change` what it computes, `mean` what it takes off an image more."""

    has_preprocessing = True

    def __init__(self, converted: Converted, change: Any = lambda y: y, mean: float = 0.0) -> None:
        self.converted, self.change, self.mean = converted, change, mean
        self.seen: list[tuple[int, ...]] = []

    def prepare(self, images: np.ndarray) -> np.ndarray:
        return self.converted.normalise(images) - self.mean / self.converted.std

    def compute(self, inputs: np.ndarray) -> np.ndarray:
        self.seen.append(inputs.shape)
        return self.change(self.converted.run(inputs))


def test_a_graph_is_compared_on_photos_and_noise(converted: Converted, photo_folder: Path) -> None:
    graph = _Graph(converted)
    proof = by_graph(converted, graph, photo_folder)
    assert proof.detail.startswith("2 photos and noise")
    assert graph.seen == [(1, *converted.size, 3)] * 3
    assert proof.figures["prepared"] == 0


@pytest.mark.parametrize("change", [lambda y: y + 1, lambda y: y * np.nan, lambda y: y[:, 1:]])
def test_a_graph_that_says_something_else_is_a_refusal(change: Any, converted: Converted, photo_folder: Path) -> None:
    with pytest.raises(VerificationError):
        by_graph(converted, _Graph(converted, change), photo_folder)


@pytest.mark.parametrize(("mean", "is_refused"), [(1e-3, True), (1e-4, True), (1e-7, False)])
def test_images_that_are_prepared_otherwise_are_a_refusal(
    mean: float, is_refused: bool, converted: Converted, photo_folder: Path
) -> None:
    graph = _Graph(converted, mean=mean)
    if is_refused:
        with pytest.raises(VerificationError, match=r"mean and std of config.json are not the source's.*allowed 1e-05"):
            by_graph(converted, graph, photo_folder)
    else:
        assert by_graph(converted, graph, photo_folder).figures["prepared"] < 1e-6


class _Steep(torch.nn.Module):
    """A network that enlarges a change of its input by a million, as deep ones with random weights do."""

    def __init__(self, middle: float) -> None:
        super().__init__()
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e6 * (x.mean((1, 2, 3)) - self.middle))[:, None]


def test_an_ill_conditioned_network_is_not_taken_for_another(converted: Converted, photo_folder: Path) -> None:
    steep = converted._replace(model=_Steep(0.1))
    graph = _Graph(steep, mean=3e-8)  # as far as seven digits of a mean are from it
    batch = steep.pixels(Image.new("RGB", (40, 60)), steep.size)
    outputs = steep.run(steep.normalise(batch)), steep.run(graph.prepare(batch))
    assert float(np.abs(outputs[0] - outputs[1]).max()) > 100 * TOLERANCE
    proof = by_graph(steep, graph, photo_folder)
    assert proof.figures["relative"] == 0
    with pytest.raises(VerificationError, match=r"mean and std of config.json are not the source's"):
        by_graph(steep, _Graph(steep, mean=1e-3), photo_folder)


def test_a_large_image_is_tried_at_a_smaller_size_with_the_same_paddings(
    converted: Converted, photo_folder: Path
) -> None:
    graph = _Graph(converted)
    by_graph(converted._replace(size=(1601, 64)), graph, photo_folder)
    assert graph.seen == [(1, 513, 64, 3)] * 3
    assert trial_size(1601, 64) == (513, 64)  # at every layer even where the larger one is, and odd where that is


def test_images_and_inputs_of_a_reference_are_compared_apart(converted: Converted, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("f4")
    inputs = converted.normalise(images)
    np.savez(tmp_path / "r.npz", images=images, input=inputs, output=converted.run(inputs))
    assert by_reference(converted, tmp_path / "r.npz").figures["prepared"] == 0
    np.savez(tmp_path / "r.npz", images=images + 1, input=inputs, output=converted.run(inputs))
    with pytest.raises(VerificationError, match=r"mean and std of config.json are not the source's"):
        by_reference(converted, tmp_path / "r.npz")


def test_outputs_before_the_first_written_are_left_out(converted: Converted, tmp_path: Path) -> None:
    with np.load(REFERENCE) as data:
        output = np.concatenate([np.ones((2, 1), "f4"), data["output_32x32"]], 1)
        np.savez(tmp_path / "r.npz", input=data["input_32x32"], output=output)
    assert by_reference(converted, tmp_path / "r.npz", cut=1)
    with pytest.raises(VerificationError, match=r"outputs of shape \(2, 6\), the model gives \(2, 5\)"):
        by_reference(converted, tmp_path / "r.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(3)}, "holds x, expected pairs 'input' or 'images' and 'output'"),
        ({"input_1": np.ones((1, 32, 32, 3))}, "'input_1' has no 'output_1' beside it"),
        ({"input": np.ones((32, 32, 3)), "output": np.ones((1, 5))}, r"shape \(32, 32, 3\)"),
        ({"input": np.ones((2, 32, 32, 3)), "output": np.ones((1, 5))}, r"expected \(B, H, W, C\) and \(B, outputs\)"),
        ({"input": np.array([{}], object), "output": np.ones((1, 5))}, "not readable as .npz of numbers"),
    ],
)
def test_references_that_are_none_say_why(
    arrays: dict[str, np.ndarray], message: str, converted: Converted, tmp_path: Path
) -> None:
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(CheckpointFormatError, match=message):
        by_reference(converted, tmp_path / "r.npz")


RAW = REFERENCE.read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", RAW[:5000], RAW[:5000] + bytes(64) + RAW[5064:]])
def test_a_damaged_reference_says_so(content: bytes, converted: Converted, tmp_path: Path) -> None:
    (tmp_path / "r.npz").write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=r"r\.npz: not readable as \.npz"):
        by_reference(converted, tmp_path / "r.npz")


def test_every_proof_that_can_be_had_is_given(lite0_folder: Path, converted: Converted, photo_folder: Path) -> None:
    proofs = verify(lite0_folder, graph=_Graph(converted), reference=REFERENCE, images=photo_folder)
    assert [proof.kind for proof in proofs] == ["reference", "graph", "plausibility"]
    assert [proof.kind for proof in verify(lite0_folder, images=photo_folder)] == ["plausibility"]
    assert [proof.kind for proof in verify(lite0_folder, reference=REFERENCE)] == ["reference"]


def test_the_tolerance_is_wider_only_as_far_as_float32_is_rough(converted: Converted) -> None:
    assert by_reference(converted, REFERENCE).figures["tolerance"] == TOLERANCE
    rough = Converted(_Rough(converted.model), *converted[1:])
    assert TOLERANCE < by_reference(rough, REFERENCE).figures["tolerance"] <= MAX_TOLERANCE


class _Rough(torch.nn.Module):
    """A model that float32 changes more than others."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.model(x)
        return y + 5e-5 * y.abs().max() if x.dtype == torch.float32 else y


def test_outputs_near_zero_verify_the_same_network_alone(converted: Converted, tmp_path: Path) -> None:
    with np.load(REFERENCE) as file:
        images, output = file["input_32x32"], file["output_32x32"]
    faint = Converted(_Faint(converted.model), *converted[1:])
    for name, outputs in (("right", output * _Faint.FACTOR), ("wrong", np.roll(output, 1, axis=1) * _Faint.FACTOR)):
        np.savez(tmp_path / name, input=images, output=outputs)
    by_reference(faint, tmp_path / "right.npz")
    with pytest.raises(VerificationError, match="largest difference of outputs"):
        by_reference(faint, tmp_path / "wrong.npz")


class _Faint(torch.nn.Module):
    """A model whose outputs are all near zero, as those of random weights often are."""

    FACTOR = 1e-9

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) * self.FACTOR


def test_of_a_network_without_classifier_the_last_feature_map_can_be_compared(tmp_path: Path) -> None:
    model = create("hucorz_efficientnetv2_b0", **SMALL, num_classes=0)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3))
    with torch.inference_mode():
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        maps = model.eval().double().forward_intermediates(batch, intermediates_only=True)[-1].mean((2, 3)).numpy()
    found = Converted(model, np.zeros(3), np.ones(3), (64, 64), 3)
    for name, output in (("right", maps), ("wrong", maps + 1)):
        np.savez(tmp_path / name, input=images, output=output)
    assert "1 of them of the last feature map, before the head" in by_reference(found, tmp_path / "right.npz").detail
    with pytest.raises(VerificationError, match="largest difference of outputs"):
        by_reference(found, tmp_path / "wrong.npz")
