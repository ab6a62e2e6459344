"""Writes the names of the classes that a program trains on, and stops it where classes do not fit each other.

timm numbers the classes of every dataset for itself, and its programs know the numbers alone. An order that is taken
for granted gives classes each other's names, or an accuracy of other classes, without an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.models
import timm.task
import timm.utils

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub_format import CLASS_NAMES_FILE, read_label_names
from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.train.launcher import numbering
from timm_effnet_ext.train.launcher.numbering import Numbering
from timm_effnet_ext.train.patching import name_arguments, wrap_names

_logger = logging.getLogger(__name__)


@contextmanager
def watch_classes() -> Iterator[None]:
    """Watch the classes of models and datasets inside the context, for whoever takes timm's public names there."""
    watch = ClassWatch()
    with wrap_names(
        (timm, "create_model", watch.create_model),
        (timm.models, "create_model", watch.create_model),
        (timm.models, "load_checkpoint", watch.load_checkpoint),
        (timm.data, "create_dataset", watch.create_dataset),
        (timm.task, "resume_task_checkpoint", watch.resume_task_checkpoint),
        (timm.utils, "get_outdir", watch.get_outdir),
        (timm.utils, "accuracy", watch.accuracy),
    ):
        yield


class ClassWatch:
    """What a program has shown of its classes so far, and the functions of timm that show it."""

    def __init__(self) -> None:
        self._outputs = 0  # how many the model has that was made last
        self._model: Numbering | None = None  # what its outputs stand for
        self._training: Numbering | None = None
        self._notes: list[str] = []  # one of several processes says them: that which has an output folder
        self._misfit: str | None = None  # why the dataset that was made last does not fit the outputs

    def create_model(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call timm's `create_model` and take note of what the outputs stand for."""
        model = original(*args, **kwargs)
        given = name_arguments(original, args, kwargs)
        self._outputs = getattr(model, "num_classes", 0)  # a backbone has none
        if given["checkpoint_path"]:
            self._take_names_beside(given["checkpoint_path"], model)
        else:
            self._model = numbering.read_weights(model) if given["pretrained"] else None
        return model

    def load_checkpoint(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call timm's `load_checkpoint` and take note of what the outputs stand for now."""
        result = original(*args, **kwargs)
        given = name_arguments(original, args, kwargs)
        self._take_names_beside(given["checkpoint_path"], given["model"])
        return result

    def create_dataset(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call timm's `create_dataset` and compare its classes with those of training, or else with the model's.

        Raises:
            EffNetExtError: No training is possible with these classes, or none can be judged by them.
        """
        dataset = original(*args, **kwargs)
        given = name_arguments(original, args, kwargs)
        classes = numbering.read_dataset(dataset, given["split"], given["class_map"])
        if given["is_training"]:
            self._train_on(classes)
        elif self._training is not None:
            self._judge_training_by(classes, self._training)
        else:
            self._misfit = self._find_misfit(classes)
        return dataset

    def resume_task_checkpoint(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call timm's `resume_task_checkpoint` if the names beside the checkpoint are those of this run.

        Raises:
            EffNetExtError: They are others.
        """
        self._check_names_in(Path(name_arguments(original, args, kwargs)["checkpoint_path"]).parent)
        return original(*args, **kwargs)

    def get_outdir(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call timm's `get_outdir`, as train.py does in the first of several processes, and write the names there.

        Raises:
            EffNetExtError: The names of other classes lie there.
        """
        folder = original(*args, **kwargs)
        if self._training is not None:
            for note in self._notes:
                _logger.warning(note)
            self._notes.clear()
            self._check_names_in(Path(folder))
            _write_names(self._training, Path(folder) / CLASS_NAMES_FILE)
        return folder

    def accuracy(self, original: Callable[..., Any], output: Any, *args: Any, **kwargs: Any) -> Any:
        """Call timm's `accuracy` if the numbers of the dataset are those of the outputs.

        Raises:
            EffNetExtError: They are not, nor did the program choose among the outputs (`--valid-labels`).
        """
        if self._misfit is not None and output.shape[-1] == self._outputs:
            raise EffNetExtError(
                f"{self._misfit}. Put images into folders named as the model's classes, numbered so {numbering.BY_HAND}"
            )
        return original(output, *args, **kwargs)

    def _take_names_beside(self, checkpoint: Any, model: Any) -> None:
        """Know the outputs by the names of the run; the model too, which has those of its first weights, if any."""
        self._model = numbering.read_checkpoint(Path(checkpoint))
        if self._model is not None:
            names = {number: name for name, number in self._model.index.items()}
            cfg = getattr(model, "pretrained_cfg", None) or {}
            model.pretrained_cfg = {**cfg, "label_names": names, "label_descriptions": None}

    def _train_on(self, classes: Numbering) -> None:
        self._training = classes
        size, outputs = classes.size, self._outputs
        if not size or not outputs or size == outputs:
            return
        found = f"{numbering.describe_classes(classes)}, but the model has {outputs} outputs"
        if size > outputs:
            raise EffNetExtError(f"{found}. Pass --num-classes {size}")
        self._notes.append(f"{found}, the last {outputs - size} for no class. --num-classes {size} leaves them out")

    def _judge_training_by(self, classes: Numbering, training: Numbering) -> None:
        if training.index and classes.index and (difference := numbering.describe_differences(training, classes)):
            raise EffNetExtError(
                "classes of training and validation differ, and timm numbers each for itself: "
                f"{difference}. Give both the same, or number them {numbering.BY_HAND}"
            )
        if training.folder and classes.folder and Path(training.folder).is_relative_to(classes.folder):
            self._notes.append(
                f"{classes.folder}: no folder for validation, so timm takes all of it, images of training too"
            )

    def _find_misfit(self, classes: Numbering) -> str | None:
        """Return why accuracy would be of other classes; say it at once too, as the program may fail of it before."""
        if classes.index and numbering.NO_FOLDER.issuperset(classes.index):  # inference.py may have such
            return f"{classes.whose}: images without class folders, so that nothing says what they show"
        model, outputs = self._model, self._outputs
        misfit = assumption = None
        if model is not None and model.index.keys() & classes.index.keys():
            if difference := numbering.describe_differences(model, classes):
                misfit = f"classes of model and images differ: {difference}"
        elif classes.size > outputs > 0:
            misfit = f"{numbering.describe_classes(classes)}, but the model has {outputs} outputs"
        elif classes.index and outputs and not classes.is_mapped:
            taken = f"its {classes.size} classes are taken for outputs 0 to {classes.size - 1}"
            known = "are not named" if model is None else "all have other names"
            assumption = f"{classes.whose}: {taken}, which {known}"
        if note := misfit or assumption:
            _logger.warning(note)
        return misfit

    def _check_names_in(self, folder: Path) -> None:
        path = folder / CLASS_NAMES_FILE
        if self._training is None or not path.exists():
            return
        there = read_label_names(path)
        names, why = _order_names(self._training)
        if there != names:
            raise EffNetExtError(
                f"{path}: of a run with other classes ({why or _first_difference(there, names or ())}). Train on the "
                "same ones, or choose another --resume, --output or --experiment"
            )


def _order_names(classes: Numbering) -> tuple[tuple[str, ...] | None, str]:
    try:
        return classes.in_order(), ""
    except ValueError as err:
        return None, str(err)


def _first_difference(there: tuple[str, ...], now: tuple[str, ...]) -> str:
    pairs = enumerate(zip_longest(map(repr, there), map(repr, now), fillvalue="missing"))
    return next(f"class {number} is {old} there, {new} now" for number, (old, new) in pairs if old != new)


def _write_names(classes: Numbering, path: Path) -> None:
    names, why = _order_names(classes)
    if names is None:
        _logger.warning(f"class names are unknown, and {CLASS_NAMES_FILE} is not written: {why}")
    elif not path.exists():
        with new_file(path) as part:
            part.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")
