"""Classifies photos with one model: from a name, a folder or a Hub repository to the most probable labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import HFValidationError
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

from timm_effnet_ext.arch import PREFIX, parse_model_name
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_line
from timm_effnet_ext.hub_format import CONFIG_FILE, read_config
from timm_effnet_ext.hucorz_efficientnet import find_cfg
from timm_effnet_ext.load_errors import explained

HUB_PREFIX = "hf-hub:"

# What timm raises over a config with values of other types, missing weights, or weights of another model of its own.
_UNFIT = (
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
    """One class, and how probable the model finds it (a fraction)."""

    index: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class Classifier:
    """A model in eval mode with the preprocessing and the labels that its weights ask for.

    `data_config` is timm's, at the size that the weights are tested at.
    """

    model: Any
    data_config: dict[str, Any]
    labels: DatasetInfo | None

    def image(self, photo: Image.Image) -> Tensor:
        """Return what the model sees of an RGB photo: (1, 3, H, W)."""
        return create_transform(**self.data_config)(photo).unsqueeze(0)

    def top(self, photo: Image.Image, k: int = 5) -> list[Prediction]:
        """Return the `k` most probable classes, or all where there are fewer, the most probable first.

        Raises:
            CheckpointFormatError: The model was built, from settings that fit its weights, but cannot be run.
        """
        image = self.image(photo)
        try:
            with torch.inference_mode():
                probabilities = self.model(image).softmax(-1)[0]
        except RuntimeError as err:
            raise CheckpointFormatError(f"the model cannot be run on {tuple(image.shape)}: {first_line(err)}") from err
        values, indices = probabilities.topk(min(k, len(probabilities)))
        return [Prediction(i, self.label(i), p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]

    def label(self, index: int) -> str | None:
        """Return what a class is called, or None where nobody said."""
        if self.labels is None or not self.labels.has_label(index):
            return None
        return self.labels.index_to_description(index)


def load_classifier(name: str) -> Classifier:
    """Return the pretrained model `[hucorz_]NAME[.TAG]`, the one in a timm folder, or `hf-hub:USER/REPO`.

    Raises:
        EffNetExtError: There is no such model, or its weights cannot be had.
        CheckpointFormatError: The folder or the weights are damaged or do not belong together.
    """
    if name.startswith(HUB_PREFIX):
        source = name
    elif Path(name).is_dir():
        _check_folder(Path(name))
        source = f"local-dir:{name}"
    else:
        source = _registered(name)
    with explained(name):
        try:
            classifier = classifier_of(timm.create_model(source, pretrained=True), name)
            _check_config(classifier)
            return classifier
        except EffNetExtError:
            raise
        except HFValidationError as err:
            raise EffNetExtError(f"{name}: expected {HUB_PREFIX}USER/REPO ({err})") from err
        except _UNFIT as err:
            why = first_line(err)
            raise CheckpointFormatError(f"{name}: its config.json and its weights make no model ({why})") from err


def classifier_of(model: Any, name: str = "the model") -> Classifier:
    """Return a timm model ready to classify.

    Raises:
        EffNetExtError: It has no classifier, or takes no colour photos.
    """
    if not model.num_classes:
        raise EffNetExtError(f"{name} has no classifier (num_classes=0): it gives features, no labels")
    config = resolve_model_data_config(model, use_test_size=True)
    if config["input_size"][0] != 3:
        raise EffNetExtError(f"{name} takes images of {config['input_size'][0]} channels, a photo has 3")
    return Classifier(model.eval(), config, _labels(model))


def _labels(model: Any) -> DatasetInfo | None:
    """Return the labels that came with the weights, else ImageNet's by the number of classes."""
    cfg = model.pretrained_cfg
    if cfg.get("label_names"):
        return CustomDatasetInfo(cfg["label_names"], cfg.get("label_descriptions"))
    subset = infer_imagenet_subset({"num_classes": model.num_classes})
    return ImageNetInfo(subset) if subset else None


def _check_config(classifier: Classifier) -> None:
    """Do what every photo needs, so that settings that make no sense are an error before the first one."""
    classifier.image(Image.new("RGB", (64, 64)))
    for index in range(classifier.model.num_classes):
        if not isinstance(classifier.label(index), str | None):
            raise TypeError(f"the label of class {index} is no text: {classifier.label(index)!r}")


def _registered(name: str) -> str:
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
        architecture = read_config(path)["architecture"]
    except (CheckpointFormatError, KeyError) as err:
        raise CheckpointFormatError(f"{path}: is no timm config with an 'architecture' ({err})") from err
    if not isinstance(architecture, str) or not timm.is_model(architecture.partition(".")[0]):
        raise CheckpointFormatError(f"{path}: names the architecture {architecture!r}, which timm does not know")
