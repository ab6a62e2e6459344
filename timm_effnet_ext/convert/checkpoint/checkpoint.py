"""One opened source, its tensors and what it says, whatever wrote it: what readers return and the pipeline works on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from timm_effnet_ext.arch.layout import Shape
from timm_effnet_ext.arch.rows import Arch
from timm_effnet_ext.errors import located

Framework = Literal["tensorflow", "keras", "torch"]


def widened(bfloat16: np.ndarray) -> np.ndarray:
    """Return the bits of bfloat16 numbers (uint16), which are the upper half of a float32, as float32."""
    return (bfloat16.astype("<u4") << 16).view("<f4")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor that is still in its file; `dtype` is TensorFlow's name, e.g. "float32" or "bfloat16".

    `file` is the one that lists it, which errors begin with unless `load` says that another is at fault.
    """

    name: str
    dtype: str
    shape: Shape
    file: Path
    load: Callable[[], np.ndarray] = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Return the values, checked; a read-only view of the file where its bytes can be used as they are."""
        with located(self.file):
            return self.load()


@dataclass(frozen=True)
class Variables:
    """A checkpoint's tensors by what they are; names are those that the model's code gave its variables.

    `folded` are those that are read as parts of others, as a BatchNorm in front of the classifier is.
    """

    model: dict[str, TensorEntry] = field(default_factory=dict)
    ema: dict[str, TensorEntry] = field(default_factory=dict)  # by the name of the variable that they average
    slots: dict[str, TensorEntry] = field(default_factory=dict)
    counters: dict[str, TensorEntry] = field(default_factory=dict)
    metadata: tuple[str, ...] = ()  # what holds no values, such as the object graph
    folded: dict[str, TensorEntry] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """The training step, where the checkpoint has one."""
        found = [entry for name, entry in self.counters.items() if name.rpartition("/")[2] in ("global_step", "step")]
        return int(found[0].read()) if len(found) == 1 and not found[0].shape else None


@dataclass(frozen=True)
class Statement:
    """What one place beside the weights says of the model: a config.json, train.py's arguments, a layer graph.

    `where` is what people call the place; with a `prefix` it speaks of the network below that alone. `name` is the
    model's there; where it may be another model's, such as one of several hyper-parameters, `is_certain` is false.
    `model_args` are arguments of the model that change
    what it computes, `preprocessing` entries of timm's pretrained_cfg that say how images are prepared. `label_names`
    are by output, `label_descriptions` by label name, as timm has them. `symmetric_blocks` is there where the model's
    code pads by fixed numbers of pixels: the blocks, counted through the network, that it pads alike on both sides.
    With `dialects` it says how networks compute whose tensors have the names of these, and of no other one.
    """

    where: str
    prefix: str | None = None
    name: str | None = None
    is_certain: bool = True
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    problem_type: str | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)
    label_descriptions: Mapping[str, str] = field(default_factory=dict)
    symmetric_blocks: frozenset[int] | None = None
    dialects: tuple[str, ...] = ()


class Graph(Protocol):
    """The layer graph that a file carries; it computes independently of any name table.

    Both methods that take images raise VerificationError for a size that the graph was not built for.
    """

    @property
    def has_preprocessing(self) -> bool:
        """Whether layers in front of the network scale the images; where they do not, their author did it elsewhere."""

    def headless(self) -> Graph:
        """Return the graph up to the network's own last layer, which gives pooled features."""

    def fits(self, height: int, width: int) -> bool:
        """Whether it pads images of that size as our model does."""

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Return what the network gets of images (B, H, W, C) of 0 … 255, in the same layout."""

    def compute(self, inputs: np.ndarray) -> np.ndarray:
        """Return what comes before the last activation, for what the network gets (B, H, W, C).

        These are logits (B, classes), or pooled features (B, C) where there is no classifier.
        """


@dataclass(frozen=True)
class Checkpoint:
    """What a source holds and says of itself; of two statements of one thing the first counts.

    `habits` gives what people who use its framework do where nothing is stated, for an architecture and a number of
    classes. `notes` are for whoever converts: what the file leaves open and what was taken. `problem` is why the whole
    of it cannot be converted, though its network may be known.
    """

    path: Path
    framework: Framework
    format: str  # for people, e.g. "tensor bundle", "Keras 3 .keras"
    files: tuple[Path, ...]  # every file that was read
    variables: Variables
    statements: tuple[Statement, ...] = ()
    habits: Callable[[Arch, int], tuple[Statement, ...]] = lambda arch, num_classes: ()
    notes: tuple[str, ...] = ()
    graph: Graph | None = None
    origin: str | None = None  # what people call the source, where that is not the path
    problem: str | None = None
