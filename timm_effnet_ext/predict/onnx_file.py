"""An ONNX file as a classifier: what `export` says in it beside the graph, and how ONNX Runtime computes it.

Each fact is one text; lists and numbers are JSON, the words those of config.json in timm's Hub format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from timm.data import CustomDatasetInfo
from torch import Tensor

from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_line, located
from timm_effnet_ext.files.hub_format import PREPROCESSING, PROBLEM_TYPES, REGRESSION, activation_of, to_json
from timm_effnet_ext.predict.classifier import UNFIT, Classifier, check_names, try_config

IMAGE, LOGITS, PROBABILITIES = "image", "logits", "probabilities"
"""What a graph takes, and which of two it gives: probabilities where it takes pixels of 0 … 255."""

_PREPARATION = tuple(name for name in PREPROCESSING if name != "test_input_size")  # the size is that one
_ORIGINS = {"problem_type": "problem_type_from", "labels": "label_names_from"}
_PIXELS = {"mean": (0.0,), "std": (1 / 255,)}  # timm's words for images of 0 … 255
_MODULES = ("onnx", "onnxscript", "onnxruntime")


def check_onnx_is_there(*modules: str) -> None:
    """Raise unless what writes and runs ONNX files is installed."""
    missing = [name for name in modules or _MODULES if find_spec(name) is None]
    if missing:
        raise EffNetExtError(f"ONNX files need {', '.join(missing)}: pip install 'timm_effnet_ext[onnx]'")


def describe(classifier: Classifier) -> dict[str, str]:
    """Return what the file of a classifier says; class names are left out where nobody knows them."""
    names = [classifier.label(index) for index in range(classifier.model.num_classes + classifier.is_yes_or_no)]
    facts = {
        "architecture": classifier.model.pretrained_cfg["architecture"],
        "num_classes": classifier.model.num_classes,
        "problem_type": classifier.problem_type,
        **({"label_names": names} if any(names) else {}),
        **{name: classifier.data_config[name] for name in _PREPARATION},
        **{key: classifier.origins[origin] for origin, key in _ORIGINS.items()},
    }
    return {key: fact if isinstance(fact, str) else to_json(fact) for key, fact in facts.items()}


def load_onnx(path: Path) -> Classifier:
    """Return the classifier in a file that `export` wrote.

    Raises:
        EffNetExtError: ONNX Runtime is not installed.
        CheckpointFormatError: The file is damaged, or says too little of its images and outputs.
    """
    check_onnx_is_there("onnxruntime")
    with located(path):
        model = OnnxModel(path)
        return _classifier(model, model.said)


class OnnxModel:
    """A graph in ONNX Runtime on the CPU, called as the model is: images (B, C, H, W) -> logits (B, classes).

    A graph that gives probabilities takes pixels of 0 … 255; its logits are such that they give these probabilities.

    Raises:
        CheckpointFormatError: The file is damaged or no ONNX, its graph takes or gives something else, or cannot run.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone; they are raised as well
        self._path = path
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"],
                enable_fallback=0,  # it has no other provider, and prints that it tries one
            )  # fmt: skip
            self.said: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        except Exception as err:  # of kinds that ONNX Runtime does not name in public
            raise CheckpointFormatError(f"ONNX Runtime cannot load it ({first_line(err)})") from err
        takes, gives = (
            [one.name for one in side] for side in (self._session.get_inputs(), self._session.get_outputs())
        )
        if takes != [IMAGE] or gives not in ([LOGITS], [PROBABILITIES]):
            raise CheckpointFormatError(
                f"its graph takes {takes} and gives {gives}. Expected a file that `timm-effnet-ext export` wrote"
            )
        self.output = gives[0]
        self.num_classes = self._session.get_outputs()[0].shape[-1]

    def run(self, image: Tensor) -> Tensor:
        """Return what the graph gives."""
        try:
            (found,) = self._session.run(None, {IMAGE: image.numpy()})
        except Exception as err:  # as above
            with located(self._path):
                raise CheckpointFormatError(f"ONNX Runtime cannot run it ({first_line(err)})") from err
        return torch.from_numpy(found)

    def __call__(self, image: Tensor) -> Tensor:
        found = self.run(image)
        if self.output == LOGITS:
            return found
        is_sigmoid = activation_of(self.said["problem_type"], self.num_classes) == "sigmoid"
        return found.logit() if is_sigmoid else found.log()


def _classifier(model: OnnxModel, said: Mapping[str, str]) -> Classifier:
    missing = {"num_classes", "problem_type", *_PREPARATION, *_ORIGINS.values()} - said.keys()
    if missing:
        raise CheckpointFormatError(
            f"says nothing of {', '.join(sorted(missing))}. Expected a file that `timm-effnet-ext export` wrote"
        )
    if said["problem_type"] not in PROBLEM_TYPES or said["problem_type"] == REGRESSION:
        raise CheckpointFormatError(f"problem_type makes no sense: {said['problem_type']!r}")
    if said["num_classes"] != str(model.num_classes):
        raise CheckpointFormatError(
            f"says that it has {said['num_classes']} outputs, its graph has {model.num_classes}"
        )
    try:
        config: dict[str, Any] = {name: _value(said[name]) for name in _PREPARATION}
        if model.output == PROBABILITIES:
            config |= {name: values * config["input_size"][0] for name, values in _PIXELS.items()}
        names = json.loads(said.get("label_names", "[]"))
        labels = CustomDatasetInfo(names) if names else None
        if labels is not None:
            check_names(names, model.num_classes)
        origins = {key: said[name] for key, name in _ORIGINS.items()}
        classifier = Classifier(model, config, labels, said["problem_type"], origins)
        try_config(classifier)
        return classifier
    except UNFIT as err:
        raise CheckpointFormatError(f"what it says of its images or labels makes no sense ({first_line(err)})") from err


def _value(text: str) -> Any:
    """Return a list as a tuple, a number as it is, and a word as it is."""
    if text[:1].isalpha():
        return text
    value = json.loads(text)
    return tuple(value) if isinstance(value, list) else value
