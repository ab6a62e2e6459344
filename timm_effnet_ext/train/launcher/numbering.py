"""Which number each class has: in a dataset as timm reads it, in a model, and in a file of names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from numbers import Integral
from pathlib import Path
from typing import Any

from timm.data import CustomDatasetInfo, ImageNetInfo, infer_imagenet_subset
from timm.utils import natural_key

from timm_effnet_ext.errors import EffNetExtError, first_few
from timm_effnet_ext.files.hub_format import CLASS_NAMES_FILE, read_label_names

NO_FOLDER = {"", "."}  # what timm calls the class of images that lie in no class folder
BY_HAND = "with --class-map FILE (one class a line)"


@dataclass(frozen=True)
class Numbering:
    """The number of each class by its name: empty where there are no names, or two classes share one.

    A class map of the user's may also give several names to one class, leave numbers out, and name classes by numbers.
    """

    whose: str  # what messages call them after
    index: Mapping[Any, int]
    is_mapped: bool = False
    folder: str = ""  # or tar file in whose folders timm found them

    @property
    def size(self) -> int:
        """How many outputs a model needs for these classes."""
        return max(self.index.values(), default=-1) + 1

    def in_order(self) -> tuple[str, ...]:
        """Return the names in the order of their numbers, each of which can stand on a line of its own.

        Raises:
            ValueError: There are none, or no such list says the same.
        """
        if not self.index:
            raise ValueError(f"{self.whose} does not name them")
        if sorted(self.index.values()) != list(range(len(self.index))):
            raise ValueError(f"{self.whose} does not have one name for each number below {self.size}")
        names = sorted(self.index, key=self.index.__getitem__)
        if unfit := [name for name in names if not _is_line(name)]:
            raise ValueError(f"a line of text cannot hold {_quote(unfit)}")
        return tuple(names)


def read_dataset(dataset: Any, split: str, class_map: Any) -> Numbering:
    """Return how a dataset of timm's `create_dataset` numbers its classes.

    Raises:
        EffNetExtError: They are folders whose names timm's order does not tell apart.
    """
    source = getattr(dataset, "reader", dataset)
    folder = str(source.root) if source is not dataset and hasattr(source, "samples") else ""
    whose = folder or f"split {split!r}"
    index = getattr(source, "class_to_idx", None) or getattr(source, "class_name_to_idx", None) or {}
    if not all(isinstance(number, Integral) for number in index.values()):
        index = {}
    if class_map:  # an empty line of the file names no class
        index = {name: number for name, number in index.items() if name != ""}
    elif folder:
        _check_order(whose, index)
    return Numbering(whose, index, bool(class_map), folder)


def read_weights(model: Any) -> Numbering | None:
    """Return the classes of a model's own pretrained weights, None where they have no names.

    timm's models of ImageNet have the names that timm infers from their number.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if cfg.get("num_classes") != getattr(model, "num_classes", None):  # the weights' classifier was replaced
        return None
    if cfg.get("label_names"):
        info = CustomDatasetInfo(cfg["label_names"])
        names = {number: info.index_to_label_name(number) for number in info.label_indices()}
        return _number_names("the model", names)
    subset = infer_imagenet_subset(cfg)
    if subset is None:
        return None
    return _number_names(f"the model ({subset})", dict(enumerate(ImageNetInfo(subset).label_names())))


def read_checkpoint(path: Path) -> Numbering | None:
    """Return the classes that a run of the launcher named beside a checkpoint, None where it did not."""
    names = path.parent / CLASS_NAMES_FILE
    return _number_names(str(names), dict(enumerate(read_label_names(names)))) if names.exists() else None


def describe_classes(one: Numbering) -> str:
    """Return how many classes there are, and their names, among which may be a folder that nobody meant as a class."""
    names = f" ({_quote(one.index)})" if one.index else ""
    return f"{one.whose}: {one.size} classes{names}"


def describe_differences(one: Numbering, other: Numbering) -> str:
    """Return which classes only one has, or the other under another number; "" where there are none.

    A class map says which classes the user means: only numbers are compared.
    """
    parts = []
    if not (one.is_mapped or other.is_mapped):
        for here, there in ((one, other), (other, one)):
            if alone := here.index.keys() - there.index.keys():
                parts.append(f"only {here.whose} has {_quote(alone)} ({len(alone)} of its {len(here.index)})")
    if moved := {name for name in one.index.keys() & other.index.keys() if one.index[name] != other.index[name]}:
        name = min(moved, key=one.index.__getitem__)
        parts.append(
            f"{len(moved)} have other numbers ({name!r} is {one.index[name]} in {one.whose}, "
            f"{other.index[name]} in {other.whose})"
        )
    return "; ".join(parts)


def _number_names(whose: str, names: Mapping[int, str]) -> Numbering | None:
    index = {name: number for number, name in names.items()}
    return Numbering(whose, index) if len(index) == len(names) else None


def _check_order(whose: str, index: Collection[str]) -> None:
    """Raise if timm's order, natural and without case, leaves the order of two classes to chance."""
    for _, alike in groupby(sorted(index, key=natural_key), key=natural_key):
        names = list(alike)
        if len(names) > 1:
            raise EffNetExtError(
                f"{whose}: timm sorts {_quote(names)} alike, so their numbers may change from one process to the "
                f"next. Rename one, or number the classes {BY_HAND}"
            )


def _is_line(name: Any) -> bool:
    """Whether a name comes back whole from a UTF-8 file of lines whose ends are stripped."""
    if not isinstance(name, str) or name in NO_FOLDER:
        return False
    has_bytes = any("\ud800" <= char <= "\udfff" for char in name)  # which are no UTF-8
    return not has_bytes and name.splitlines() == [name] and name.strip() == name


def _quote(names: Collection[Any]) -> str:
    text = first_few(repr(name) for name in names)
    return f"{text} (images in no class folder)" if NO_FOLDER.intersection(names) else text
