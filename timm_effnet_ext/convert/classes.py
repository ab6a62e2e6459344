"""The classes that are written: the background class cut where there is one, names counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError

WITH_BACKGROUND = 1001  # ImageNet-1k and class 0 for none of them: tensorflow/tpu efficientnet_edgetpu_builder.py
_KNOWN = {1000: "ImageNet-1k", 21841: "ImageNet-21k", 21843: "ImageNet-21k and two more"}


class Classes(NamedTuple):
    """How many classes are written, how many rows before them are left out, and what that is called."""

    num_classes: int
    cut: int
    text: str


def choose_classes(found: int, framework: str, options: Options) -> Classes:
    """Return what to write of a classifier with `found` outputs.

    1001 outputs in a TensorFlow file are ImageNet behind a background class, unless 1001 names are given for them.

    Raises:
        EffNetExtError: The number of label names, or of the classes that were expected, is another one.
    """
    names = options.label_names
    is_named = names is not None and len(names) == found
    cut = int(found == WITH_BACKGROUND and framework == "tensorflow" and not options.keep_background and not is_named)
    num_classes = found - cut
    if names is not None and len(names) != num_classes:
        raise EffNetExtError(
            f"{len(names)} label names for {num_classes} classes. Name each class once, in their order"
        )
    if options.num_classes not in (None, num_classes):
        raise EffNetExtError(f"{num_classes} classes came out, expected {options.num_classes}: another checkpoint?")
    text = f"{num_classes} classes" if num_classes else "no classifier"
    if cut:
        text += f" ({_KNOWN[num_classes]}): the first of {found} was cut, as it stands for the background"
    elif num_classes in _KNOWN and names is None:
        text += f" ({_KNOWN[num_classes]}, by their number)"
    return Classes(num_classes, cut, text)


def read_label_names(path: str | Path) -> tuple[str, ...]:
    """Return one name a line, or a JSON list of names.

    Raises:
        CheckpointFormatError: Neither, a name that is empty, or one that is there twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors mark their files so
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (ValueError, RecursionError) as err:
        raise CheckpointFormatError(f"{path}: not readable as label names: {err}") from err
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise CheckpointFormatError(f"{path}: expected one name a line, or a JSON list of names")
    twice: Sequence[str] = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CheckpointFormatError(f"{path}: {len(twice)} names are there twice, {twice[0]!r} first")
    return tuple(name.strip() for name in names)
