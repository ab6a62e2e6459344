"""What a PyTorch checkpoint and its folder say of the model beside its weights, wherever they say it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.convert.readers.pytorch.settings import TRAIN_PY, timm_statements, train_py_statement
from timm_effnet_ext.convert.readers.pytorch.transformers import MODEL_TYPE, transformers_statements
from timm_effnet_ext.errors import CheckpointFormatError, first_line, located
from timm_effnet_ext.files.hub_format import (
    CLASS_NAMES_FILE,
    CONFIG_FILE,
    INDEX_FILES,
    WEIGHT_FILES,
    are_placeholders,
    read_label_names,
    read_object,
)

TRAIN_PYS, LIGHTNINGS = "args.yaml", "hparams.yaml"
SETTINGS_FILES = (TRAIN_PYS, LIGHTNINGS, "config.yaml", "config.json")
"""What timm's train.py, Lightning and others write beside their checkpoints; JSON is YAML, too."""

# One of these is in a config.json of timm's, present or former; a class of the user's own has its arguments there.
_OF_TIMM = {"architecture", "pretrained_cfg", "model_args", "problem_type", "label_names", "id2label"}
_WRAPPER = "timm_wrapper"  # transformers' TimmWrapper, whose config.json is timm's with more

# Words in the name of an entry that names the model, and words in that of one that names something else.
_OF_MODELS = re.compile(
    r"models?|arch|architecture|backbone|encoder|net|network|cnn|timm|variant|trunk|extractor|body", re.IGNORECASE
)
_OF_OTHERS = re.compile(
    r"path|dir|file|folder|root|ckpt|checkpoint|weights|experiment|exp|run|project|log|save|output|tag|group",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_OF_CLASSES = re.compile(r"(classes|class_?names|label_?names|labels|categories|(class|label)_?(to|2)_?(idx|id|index)"
                         r"|(idx|id|index)_?(to|2)_?(class|label|name)s?)", re.IGNORECASE)  # fmt: skip
_MAX_BYTES = 1 << 20  # of a file of settings
_MAX_DEPTH, _MAX_ENTRIES = 6, 20_000  # of what is looked through
_FOLDERS = ("", "folder", "image_folder")  # `--dataset` of timm's train.py for folders of images


def statements_in(loaded: Mapping[Any, Any], file: str = "") -> Iterator[Statement]:
    """Yield what the entries of a checkpoint or of a file beside it say, wherever they lie."""
    for path, value in _entries(loaded):
        where = f"{file}: {'.'.join(path)}" if file else ".".join(path)
        if isinstance(value, str):
            if _names_a_model(path) and _is_name(value):
                yield Statement(where, name=value, is_certain=path == ("arch",) and not file)
        elif names := _class_names(value):
            yield Statement(where, label_names=names)


def beside(
    file: Path, run: Mapping[str, Any] | None, *, has_config: bool
) -> tuple[list[Statement], Mapping[str, Any] | None]:
    """Return what the folder of a checkpoint says, its own class names first, and the arguments of its run.

    These are `run`, those in the checkpoint, where they are there, too. With `has_config` config.json has been read.

    Raises:
        CheckpointFormatError: The run's list of class names is damaged.
    """
    said = list(class_names_beside(file))
    for name, settings in settings_beside(file):
        if name == TRAIN_PYS and run is None:
            run = settings
            said.append(train_py_statement(run, run.get("model"), {}))
        if name != CONFIG_FILE or not has_config:
            said += statements_in(settings, name)
    return said, run


def config_statements(file: Path) -> tuple[list[Statement], list[str]]:
    """Return what the config.json beside a weight file says, timm's or transformers', and what it leaves unknown.

    It is the file's own where the file is called as both libraries call theirs, or where it says that it is of
    transformers. Anybody else's says nothing here.

    Raises:
        CheckpointFormatError: It is damaged, a setting that is read makes no sense, or no network of ours has it.
    """
    path = file.with_name(CONFIG_FILE)
    is_own = file.name in (*WEIGHT_FILES, *INDEX_FILES)
    if not path.is_file():
        return [], []
    with located(path):
        try:
            config = read_object(path)
        except CheckpointFormatError:
            if is_own:
                raise
            return [], []
        if config.get("model_type") == MODEL_TYPE:
            return transformers_statements(config, file)
        is_own |= config.get("model_type") == _WRAPPER
        if not is_own or not config.keys() & _OF_TIMM:
            return [], []
        return timm_statements(config)


def settings_beside(file: Path) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the name and content of files beside a checkpoint in which programs keep what they were run with.

    What cannot be read as such a file says nothing.
    """
    import yaml  # of no use to other frameworks' files, which would wait 10 ms for it

    for path in (*(file.with_name(name) for name in SETTINGS_FILES), file.parent.parent / LIGHTNINGS):
        try:
            found = yaml.safe_load(path.read_bytes()) if 0 < path.stat().st_size <= _MAX_BYTES else None
        except (OSError, ValueError, RecursionError, yaml.YAMLError):  # not there, or tags of Python objects
            continue
        if isinstance(found, Mapping):
            yield path.name, found


def class_names_beside(file: Path) -> Iterator[Statement]:
    """Yield the class names that a run of train.py left in the folder of its checkpoints.

    Raises:
        CheckpointFormatError: The file is damaged.
    """
    path = file.with_name(CLASS_NAMES_FILE)
    if path.is_file():
        yield Statement(f"{CLASS_NAMES_FILE} beside it", label_names=dict(enumerate(read_label_names(path))))


def class_names_of_data(args: Mapping[str, Any]) -> Statement | str | None:
    """Return the class names of the data that train.py's arguments name, or a note why there are none.

    Only names of folders are read, as timm numbers them, or the lines of a class map; a class map that is a pickle is
    not.
    """
    class_map, folder = args.get("class_map"), args.get("data_dir") or args.get("data")
    if isinstance(class_map, str) and class_map:
        return _class_map(class_map, folder)
    if isinstance(folder, str) and folder and str(args.get("dataset") or "").lower() in _FOLDERS:
        return _class_folders(Path(folder), args.get("train_split"))
    return None


def _class_map(class_map: str, folder: Any) -> Statement | str:
    places = [Path(class_map), *([Path(folder, class_map)] if isinstance(folder, str) else [])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return f"class names unknown: the class map {class_map!r} of {TRAIN_PY} is not there"
    if path.suffix.lower() != ".txt":
        return f"class names unknown: the class map {class_map!r} of {TRAIN_PY} is a pickle, which is never loaded"
    try:
        names = read_label_names(path)
    except CheckpointFormatError as err:
        return f"class names unknown: the class map of {TRAIN_PY}: {err}"
    return Statement(f"the class map {class_map} of {TRAIN_PY}", label_names=dict(enumerate(names)))


def _class_folders(folder: Path, split: Any) -> Statement | str:
    from timm.data import create_dataset
    from timm.utils import natural_key

    if not folder.is_dir():
        return f"class names unknown: the data folder {str(folder)!r} of {TRAIN_PY} is not there"
    try:
        found = create_dataset("", str(folder), split=split if isinstance(split, str) else "train").reader.class_to_idx
    except (OSError, RuntimeError, ValueError, AttributeError) as err:
        return f"class names unknown: the data folder {str(folder)!r} of {TRAIN_PY} has none ({first_line(err)})"
    names = sorted(found, key=found.get)
    if len({tuple(natural_key(name)) for name in names}) < len(names):
        return f"class names unknown: of folders in {str(folder)!r} that differ in case alone timm's order changes"
    return Statement(f"the folders in {folder}, as {TRAIN_PY} name it", label_names=dict(enumerate(names)))


def _entries(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and value of every entry that is no tensor, and of those that may be lists of class names."""
    count = 0
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), value)])
    while waiting and count < _MAX_ENTRIES:
        path, value = waiting.popleft()
        count += 1
        if path and (isinstance(value, str) or _OF_CLASSES.fullmatch(path[-1])):
            yield path, value
        inner = vars(value) if type(value).__name__ == "Namespace" else value
        if isinstance(inner, Mapping) and len(path) < _MAX_DEPTH:
            waiting.extend(((*path, str(key)), item) for key, item in inner.items() if not hasattr(item, "storage"))


def _names_a_model(path: Sequence[str]) -> bool:
    """Whether an entry's own name or those around it say that it names a model."""
    own, around = _WORD.findall(path[-1]), _WORD.findall(".".join(path))
    return any(map(_OF_MODELS.fullmatch, around)) and not any(map(_OF_OTHERS.fullmatch, own))


def _is_name(value: str) -> bool:
    """Whether a text can be a model's name and is no path: timm's, or USER/REPO behind a scheme."""
    return len(value) < 200 and value.count("/") <= 1 and not value.startswith(("/", ".", "~"))


def _class_names(value: Any) -> dict[int, str]:
    """Return the names by output that a list or an object of them says, or nothing."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.ndim == 1 and value.dtype.kind in "UO" else None
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        return {}
    if all(isinstance(name, str) for name in value) and all(_is_index(i) for i in value.values()):
        value = {index: name for name, index in value.items()}
    names = {int(i): name for i, name in value.items() if _is_index(i) or (isinstance(i, str) and i.isdecimal())}
    is_whole = len(names) == len(value) and all(isinstance(name, str) and name.strip() for name in names.values())
    return names if is_whole and len(set(names.values())) == len(names) and not are_placeholders(names) else {}


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0
