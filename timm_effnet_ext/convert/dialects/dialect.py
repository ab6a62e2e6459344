"""The engine of name dialects: rows of a dialect x an architecture -> one entry for each tensor, both directions.

A dialect says with data alone how some framework names and lays out the same network. `plan` is its only expansion;
whoever needs a direction derives it from the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from timm_effnet_ext.arch import Arch, Block, Op
from timm_effnet_ext.convert.dialects.preparation import Preparation, by_google
from timm_effnet_ext.errors import NameMappingError
from timm_effnet_ext.layout import LayerKind, Shape, layers


class Layout(NamedTuple):
    """How a source's axes become torch's: `array.transpose(perm)`; no axes (): as they are."""

    perm: tuple[int, ...] = ()

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return a source array as torch has it, without a copy."""
        return array.transpose(self.perm) if self.perm else array

    def shape(self, source: Shape) -> Shape | None:
        """Return the torch shape of a source shape, or None where the rank is another."""
        if not self.perm:
            return source
        return tuple(source[axis] for axis in self.perm) if len(source) == len(self.perm) else None

    @property
    def inverse(self) -> Layout:
        """The layout of the way back."""
        return Layout(tuple(sorted(range(len(self.perm)), key=self.perm.__getitem__)))


SAME = Layout()
HWIO_TO_OIHW = Layout((3, 2, 0, 1))
HWCM_TO_CMHW = Layout((2, 3, 0, 1))  # depthwise kernels, multiplier M = 1
IO_TO_OI = Layout((1, 0))


class Leaf(NamedTuple):
    """One tensor of a layer: torch's name, the source's, and the layout from there to here."""

    torch: str
    source: str
    layout: Layout = SAME


class Rule(NamedTuple):
    """One layer: timm's module name (of a block, below the block) and the source's."""

    torch: str
    source: str


class Entry(NamedTuple):
    """One tensor of one network under both its names."""

    torch: str
    source: str
    layout: Layout
    shape: Shape  # torch's

    @property
    def source_shape(self) -> Shape:
        """The shape that the source must have."""
        return self.layout.inverse.shape(self.shape) or self.shape


BlockKind = tuple[Op, bool]


def tensorflow_numerics(arch: Arch) -> Mapping[str, Any]:
    """Return no arguments: SAME padding and an epsilon of 1e-3 are what our models have."""
    return {}


@dataclass(frozen=True)
class Dialect:
    """How one family of files names its tensors.

    Layer names are templates of `str.format`, so a dialect numbers blocks as its files do:
    `{flat}` counts through the network, `{stage}` and `{block}` within, from 0; `{stage1}`, `{block1}`,
    `{flat1}` the same from 1; `{letter}` is the block within its stage as a, b, c, …; `{stages}` and `{stages1}`
    are the number of stages, and one more; `{nth}` counts layers of one kind: "" for the first, then _1, _2, ….
    `block` is put before each rule of `blocks`.

    What comes with the names is part of the dialect: `numerics` gives the arguments of our model with which it computes
    as the code that has these names does, or is None where several codes have them; `preparation` says how the images
    of published weights are prepared, `note` what else whoever converts should know.
    """

    name: str
    leaves: Mapping[LayerKind, tuple[Leaf, ...]]
    ends: tuple[Rule, ...]  # stem, head and classifier
    block: str
    blocks: Mapping[BlockKind, tuple[Rule, ...]]
    sep: str = "/"  # between a layer and its leaf
    source_only: tuple[str, ...] = ()  # fnmatch patterns, below the prefix, of what torch has no counterpart for
    numerics: Callable[[Arch], Mapping[str, Any]] | None = tensorflow_numerics
    preparation: Preparation = by_google
    note: str | None = None

    def __post_init__(self) -> None:
        for table in ("leaves", "blocks"):
            object.__setattr__(self, table, MappingProxyType(dict(getattr(self, table))))

    def end(self, torch_name: str, stages: int = 0, nth: str = "") -> str:
        """Return the source name of a layer outside the blocks."""
        return _unique(self.ends, self.name)[torch_name].format(stages=stages, stages1=stages + 1, nth=nth)

    def is_source_only(self, name: str) -> bool:
        """Whether a name below the prefix is known to have no counterpart."""
        return any(fnmatchcase(name, pattern) for pattern in self.source_only)


def plan(
    arch: Arch,
    dialect: Dialect,
    *,
    prefix: str = "",
    num_classes: int = 1000,
    in_chans: int = 3,
    width_mult: float = 1.0,
    depth_mult: float = 1.0,
) -> tuple[Entry, ...]:
    """Return an entry for every tensor of the network that a source must give, in order of computation.

    Raises:
        NameMappingError: A layer without a rule, or two tensors with one name on either side.
    """
    stages = arch.blocks(width_mult, depth_mult)
    name_of = _namer(dialect, stages)
    seen: Counter[LayerKind] = Counter()
    entries = []
    for layer in layers(arch, num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, depth_mult=depth_mult):
        nth = f"_{seen[layer.kind]}" if seen[layer.kind] else ""
        seen[layer.kind] += 1
        try:
            name = name_of(layer.name, nth)
        except KeyError as err:
            raise NameMappingError(f"dialect {dialect.name!r} has no rule for {layer.name!r}") from err
        shapes = layer.shapes()
        for leaf in dialect.leaves[layer.kind]:
            if leaf.torch in shapes:
                source = f"{prefix}{name}{dialect.sep}{leaf.source}"
                entries.append(Entry(f"{layer.name}.{leaf.torch}", source, leaf.layout, shapes[leaf.torch]))
    to_source(entries), to_torch(entries)
    return tuple(entries)


def to_torch(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return source name -> entry."""
    return _by((entry.source, entry) for entry in entries)


def to_source(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return torch name -> entry."""
    return _by((entry.torch, entry) for entry in entries)


def _namer(dialect: Dialect, stages: tuple[tuple[Block, ...], ...]) -> Callable[[str, str], str]:
    """Return the function from a layer's name and its `nth` to the source's name; no rule is a KeyError."""
    rules = {kind: _unique(table, dialect.name) for kind, table in dialect.blocks.items()}
    blocks = {
        (block.stage, block.index): (rules.get(block.kind, {}), _numbers(flat, block.stage, block.index, len(stages)))
        for flat, block in enumerate(chain.from_iterable(stages))
    }

    def name_of(layer: str, nth: str) -> str:
        if not layer.startswith("blocks."):
            return dialect.end(layer, len(stages), nth)
        _, stage, index, part = layer.split(".", 3)
        table, numbers = blocks[int(stage), int(index)]
        return (dialect.block + table[part]).format_map({**numbers, "nth": nth})

    return name_of


def _numbers(flat: int, stage: int, block: int, stages: int) -> dict[str, int | str]:
    """Return what a template may name; see `Dialect`."""
    counts = {"flat": flat, "stage": stage, "block": block, "stages": stages}
    letter = chr(ord("a") + block)  # behind z Keras goes on with {, |, …
    return {**counts, **{f"{key}1": n + 1 for key, n in counts.items()}, "letter": letter}


def _unique(rules: Iterable[Rule], dialect: str) -> dict[str, str]:
    rules = tuple(rules)
    table = dict(rules)
    if len(table) != len(rules):
        raise NameMappingError(f"dialect {dialect!r} names a layer twice in one table")
    return table


def _by(pairs: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for name, entry in pairs:
        if name in table:
            raise NameMappingError(f"{name!r} stands for both {table[name]} and {entry}")
        table[name] = entry
    return table
