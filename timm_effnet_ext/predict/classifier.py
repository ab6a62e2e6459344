"""Classifies photos with one model: from a name, a folder or a Hub repository to the most probable labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import (
    CustomDatasetInfo,
    DatasetInfo,
    ImageNetInfo,
    create_transform,
    infer_imagenet_subset,
    resolve_model_data_config,
)
from torch import Tensor

from timm_effnet_ext.arch.rows import PREFIX, parse_model_name
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_line, located
from timm_effnet_ext.files.hub_format import (
    CONFIG_FILE,
    MAX_SIDE,
    PROBLEM_TYPES,
    REGRESSION,
    Activation,
    activation_of,
    read_object,
    usual_problem_type,
)
from timm_effnet_ext.files.hub_name import HUB_PREFIX, is_hub_name, parse_hub_name
from timm_effnet_ext.models.hucorz_efficientnet import find_cfg
from timm_effnet_ext.weights.source import explain_load_errors, read_source_config

# What timm raises over a config with values of other types, missing weights, or weights of another model of its own.
UNFIT = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)


@dataclass(frozen=True)
class Prediction:
    """One class, and how probable the model finds it.

    Attributes:
        index: The class: an output, or of one output that tells between two labels 0 for no and 1 for yes.
        label: What it is called, None where nobody said.
        probability: From 0 to 1.
    """

    index: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class Classifier:
    """A model in eval mode with the preprocessing, the labels and the meaning of outputs that its weights ask for.

    A model of one output has two classes where both no and yes have a label.

    Attributes:
        model: In eval mode: images (B, C, H, W) -> logits (B, outputs).
        data_config: timm's arguments of `create_transform`, at the size that the weights are tested at.
        labels: What timm knows of the classes, None where nobody named them.
        problem_type: "single_label_classification" or "multi_label_classification", transformers' words.
        origins: Who says "problem_type" and "labels".
    """

    model: Any
    data_config: dict[str, Any]
    labels: DatasetInfo | None
    problem_type: str
    origins: Mapping[str, str]

    def image(self, photo: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
        """Return what the model sees of an RGB `photo`: (1, 3, H, W), or (1, 1, H, W) in grey as timm has it.

        `size` is another height and width than that which the weights are tested at.
        """
        channels, *usual = self.data_config["input_size"]
        transform = create_transform(**{**self.data_config, "input_size": (channels, *(size or usual))})
        return transform(photo.convert("L") if channels == 1 else photo).unsqueeze(0)

    @property
    def activation(self) -> Activation:
        """What makes probabilities of the model's logits: "softmax", or "sigmoid" where each is by itself."""
        return activation_of(self.problem_type, self.model.num_classes)

    @property
    def is_yes_or_no(self) -> bool:
        """Whether one output tells between two labels."""
        return self.model.num_classes == 1 and self.labels is not None and self.labels.num_classes() == 2

    @property
    def meaning(self) -> str:
        """What the probabilities are, and who says so, for people."""
        count = self.model.num_classes
        what = f"{self.activation} of {count} output{'s' if count != 1 else ''} ({self.problem_type})"
        return f"{what}, from {self.origins['problem_type']}; labels: {self.origins['labels']}"

    def top(self, photo: Image.Image, k: int = 5) -> list[Prediction]:
        """Return the `k` most probable classes of an RGB `photo`, all where there are fewer, the most probable first.

        Raises:
            CheckpointFormatError: The model was built, from settings that fit its weights, but cannot be run.
        """
        probabilities = self.probabilities(self.image(photo))[0]
        if self.is_yes_or_no:
            probabilities = torch.cat([1 - probabilities, probabilities])
        values, indices = probabilities.topk(min(k, len(probabilities)))
        return [Prediction(i, self.label(i), p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]

    def probabilities(self, images: Tensor) -> Tensor:
        """Return how probable each output is, from 0 to 1: (B, outputs) for `images` (B, C, H, W), as `image` gives.

        Raises:
            CheckpointFormatError: The model was built, from settings that fit its weights, but cannot be run.
        """
        try:
            with torch.inference_mode():
                logits = self.model(images)
        except RuntimeError as err:
            raise CheckpointFormatError(f"the model cannot be run on {tuple(images.shape)}: {first_line(err)}") from err
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(-1)

    def output_of(self, index: int) -> tuple[int, int]:
        """Return the output that speaks of class `index`, and with which sign: no is the opposite of yes."""
        return (0, 2 * index - 1) if self.is_yes_or_no else (index, 1)

    def label(self, index: int) -> str | None:
        """Return what class `index` is called, or None where nobody said."""
        if self.labels is None or not self.labels.has_label(index):
            return None
        return self.labels.index_to_description(index)


def load_classifier(name: str) -> Classifier:
    """Return a classifier with what its weights come with: preprocessing, labels, and what its outputs mean.

    Args:
        name: A pretrained model (`[hucorz_]NAME[.TAG]`), a folder that timm loads, such as `convert` writes, a
            repository of the Hub (`hf-hub:USER/REPO[@REVISION]`), or a file that `export` wrote (`FILE.onnx`).

    Raises:
        EffNetExtError: There is no such model, or its weights cannot be had.
        CheckpointFormatError: The folder or the weights are damaged or do not belong together.
    """
    if Path(name).suffix == ".onnx" and Path(name).is_file():
        from timm_effnet_ext.predict.onnx_file import load_onnx

        return load_onnx(Path(name))
    if is_hub_name(name):
        source = _name_on_hub(name)
    elif Path(name).is_dir():
        _check_folder(Path(name))
        source = f"local-dir:{name}"
    else:
        source = _name_registered(name)
    with explain_load_errors(name):
        try:
            classifier = make_classifier(timm.create_model(source, pretrained=True), name)
            try_config(classifier)
            return classifier
        except EffNetExtError:
            raise
        except UNFIT as err:
            why = f"its config.json and its weights make no model ({first_line(err)})"
            advice = ". Where they are not timm's, convert them: timm-effnet-ext convert" if is_hub_name(name) else ""
            raise CheckpointFormatError(f"{name}: {why}{advice and f'{advice} {name} -o FOLDER'}") from err


def make_classifier(model: Any, name: str = "the model") -> Classifier:
    """Return a timm model ready to classify.

    Raises:
        EffNetExtError: It has no classifier, its outputs are no classes, or it takes no photos.
        CheckpointFormatError: There are labels for other outputs.
    """
    if not getattr(model, "num_classes", 0):  # a feature extractor has no such number
        raise EffNetExtError(f"{name} has no classifier (num_classes=0): it gives features, no labels")
    data_config = resolve_model_data_config(model, use_test_size=True)
    if data_config["input_size"][0] not in (1, 3):
        raise EffNetExtError(f"{name} takes images of {data_config['input_size'][0]} channels, a photo has 3 or 1")
    config = read_source_config(model.pretrained_cfg, may_ask=False) or {}
    stated = config.get("problem_type")
    if stated not in (None, *PROBLEM_TYPES):
        raise CheckpointFormatError(f"{name}: problem_type makes no sense: {stated!r}")
    if stated == REGRESSION:
        raise EffNetExtError(f"{name}: its outputs are numbers ({REGRESSION}), no classes: there are no probabilities")
    labels, whose = _labels(model, name)
    origins = {"problem_type": CONFIG_FILE if stated else "the number of outputs alone", "labels": whose}
    return Classifier(model.eval(), data_config, labels, stated or usual_problem_type(model.num_classes), origins)


def _labels(model: Any, name: str) -> tuple[DatasetInfo | None, str]:
    """Return the labels that came with the weights, else ImageNet's by the number of classes, and whose they are."""
    cfg, count = model.pretrained_cfg, model.num_classes
    names = cfg.get("label_names")
    if names:
        with located(name):
            check_names(names, count)
        return CustomDatasetInfo(names, cfg.get("label_descriptions")), "with the weights"
    subset = infer_imagenet_subset({"num_classes": count})
    return (ImageNetInfo(subset), f"{subset}'s, by the number of outputs") if subset else (None, "unknown")


def check_names(names: Any, count: int) -> None:
    """Raise unless labels, in a list or by index, can be those of so many outputs."""
    if len(names) > max(count, 2) or (len(names) != count and count > 1 and not isinstance(names, dict)):
        raise CheckpointFormatError(f"{len(names)} label names for {count} outputs")


def try_config(classifier: Classifier) -> None:
    """Do what every photo needs, so that settings that make no sense are an error before the first one."""
    _, height, width = classifier.data_config["input_size"]
    if not 0 < min(height, width) <= max(height, width) <= MAX_SIDE:
        raise ValueError(f"images of {height} x {width} pixels, expected sides of 1 to {MAX_SIDE}")
    if not classifier.image(Image.new("RGB", (64, 64))).isfinite().all():
        raise ValueError("an image has values that are no numbers")
    for index in range(classifier.model.num_classes + classifier.is_yes_or_no):
        if not isinstance(classifier.label(index), str | None):
            raise TypeError(f"the label of class {index} is no text: {classifier.label(index)!r}")


def _name_on_hub(name: str) -> str:
    """Return what timm calls a repository, which it takes as a whole."""
    repo_id, revision, path = parse_hub_name(name)
    if path:
        raise EffNetExtError(f"{name}: names a part of a repository, expected {HUB_PREFIX}USER/REPO[@REVISION]")
    return f"{HUB_PREFIX}{repo_id}{'' if revision is None else f'@{revision}'}"


def _name_registered(name: str) -> str:
    """Return the registry name of a model of ours, or raise with what would have been right."""
    if Path(name).is_file():
        raise EffNetExtError(f"{name}: is a file. `timm-effnet-ext convert` makes a folder of it, to be named here")
    try:
        arch, tag = parse_model_name(name)
    except EffNetExtError as err:
        raise EffNetExtError(f"{name!r} is neither a folder nor {HUB_PREFIX}USER/REPO, and {err}") from err
    full = f"{PREFIX}{arch.name}.{tag}" if tag else PREFIX + arch.name
    if tag and not find_cfg(arch.name, tag).has_weights:
        raise EffNetExtError(f"{full}: nobody publishes these weights for timm. Convert Google's, and name the folder")
    return full


def _check_folder(folder: Path) -> None:
    """Raise unless the folder's config.json names a model that timm knows."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointFormatError(f"{folder}: holds no config.json. Is it a timm folder?")
    try:
        architecture = read_object(path)["architecture"]
    except (CheckpointFormatError, KeyError) as err:
        raise CheckpointFormatError(f"{path}: is no timm config with an 'architecture' ({err})") from err
    if not isinstance(architecture, str) or not timm.is_model(architecture.partition(".")[0]):
        raise CheckpointFormatError(f"{path}: names the architecture {architecture!r}, which timm does not know")
