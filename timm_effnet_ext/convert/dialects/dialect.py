"""The engine of name dialects: names of a dialect x an architecture -> one entry for each tensor, both directions.

A dialect says with data alone how some framework names and lays out the same network. `plan` is its only expansion;
whoever needs a direction derives it from the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from timm_effnet_ext.arch.layout import Layer, LayerKind, Role, Shape, layers
from timm_effnet_ext.arch.rows import Arch, Block, Op
from timm_effnet_ext.convert.dialects.preparation import Preparation, by_google
from timm_effnet_ext.errors import NameMappingError


class Layout(NamedTuple):
    """How a source's axes become torch's: `array.transpose(perm)`; no axes (): as they are.

    Where the rows of a matrix are the kernels of experts, `kernel` is the shape of one in the source, and `perm` is of
    each.
    """

    perm: tuple[int, ...] = ()
    kernel: Shape = ()

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return a source array as torch has it, without a copy unless it holds experts."""
        if not self.kernel:
            return array.transpose(self.perm) if self.perm else array
        kernels = array.reshape(-1, *self.kernel).transpose(0, *(axis + 1 for axis in self.perm))
        return kernels.reshape(array.shape)

    def shape(self, source: Shape) -> Shape | None:
        """Return the torch shape of a source shape, or None where the rank is another."""
        if not self.perm or self.kernel:
            return source
        return tuple(source[axis] for axis in self.perm) if len(source) == len(self.perm) else None

    @property
    def inverse(self) -> Layout:
        """The layout of the way back."""
        back = tuple(sorted(range(len(self.perm)), key=self.perm.__getitem__))
        return Layout(back, tuple(self.kernel[axis] for axis in self.perm) if self.kernel else ())

    def of_experts(self, kernel: Shape) -> Layout:
        """Return the layout of a matrix of kernels that have this shape in torch."""
        return self._replace(kernel=self.inverse.shape(kernel) or ()) if self.perm else self


SAME = Layout()
HWIO_TO_OIHW = Layout((3, 2, 0, 1))
HWCM_TO_CMHW = Layout((2, 3, 0, 1))  # depthwise kernels, multiplier M = 1
IO_TO_OI = Layout((1, 0))


class Leaf(NamedTuple):
    """One tensor of a layer: torch's name, the source's, and the layout from there to here."""

    torch: str
    source: str
    layout: Layout = SAME


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


Names = tuple[str, ...]
BlockKind = tuple[Op, bool]
MB: frozenset[BlockKind] = frozenset({("mb", True), ("mb", False)})
FUSED: frozenset[BlockKind] = frozenset({("fused", True), ("fused", False)})
COND: frozenset[BlockKind] = frozenset({("cond", True)})

_NTH = "{nth}"


def tensorflow_numerics(arch: Arch) -> Mapping[str, Any]:
    """Return no arguments: SAME padding and an epsilon of 1e-3 are what our models have."""
    return {}


@dataclass(frozen=True)
class Dialect:
    """How one family of files names its tensors.

    `names` has the layers of each role, in the order of computation: a convolution and its norm, the two convolutions
    of an attention. `block` is put before the names of what stands in a block, `trunk` before all names but the
    classifier's. `kinds` are the kinds of blocks that such files can have; `other` has what a role is called in one
    kind of block alone.

    Names are templates of `str.format`, so a dialect numbers blocks as its files do: `{flat}` counts through the
    network, `{stage}` and `{block}` within, from 0; `{stage1}`, `{block1}`, `{flat1}` the same from 1; `{letter}` is
    the block within its stage as a, b, c, …; `{stages}` and `{stages1}` are the number of stages, and one more.
    `{size}`, `{size_block}` and `{sizes}` are the same, where stages that keep the size of the maps count as one with
    the stage before them.
    `{nth}` tells apart layers that would have the same name: "" for the first, then _1, _2, …. `{timm}` is timm's own
    name of a layer, below the block. `alike` gives further numbers by how many blocks of the same kind stand before.

    What comes with the names is part of the dialect: `numerics` gives the arguments of our model with which it computes
    as the code that has these names does, or is None where several codes have them; `first_shortcut` says whether the
    first block of a stage has a shortcut there, where its shapes allow it; `preparation` says how the images of
    published weights are prepared, `note` what else whoever converts should know.
    """

    name: str
    leaves: Mapping[LayerKind, tuple[Leaf, ...]]
    names: Mapping[Role, Names]
    block: str
    other: Mapping[BlockKind, Mapping[Role, Names]] = field(default_factory=dict)
    kinds: frozenset[BlockKind] = MB | FUSED
    trunk: str = ""
    sep: str = "/"  # between a layer and its leaf
    source_only: tuple[str, ...] = ()  # fnmatch patterns, below the prefix, of what torch has no counterpart for
    numerics: Callable[[Arch], Mapping[str, Any]] | None = tensorflow_numerics
    first_shortcut: bool = True
    preparation: Preparation = by_google
    note: str | None = None
    alike: Callable[[int], Mapping[str, str]] | None = None
    head_eps: float | None = None

    def __post_init__(self) -> None:
        for table in ("leaves", "names", "other"):
            object.__setattr__(self, table, MappingProxyType(dict(getattr(self, table))))

    def templates(self, role: Role, kind: BlockKind | None = None) -> Names:
        """Return the names of a role's layers, outside the blocks or in those of one kind."""
        names, before = self.names[role], "" if role == "classifier" else self.trunk
        if kind is not None:
            if kind not in self.kinds:
                raise NameMappingError(f"dialect {self.name!r} knows no block of kind {kind}")
            names, before = self.other.get(kind, self.names).get(role, names), before + self.block
        return tuple(before + name for name in names)

    def end(self, role: Role, arch: Arch | None = None) -> Names:
        """Return the source name of the first tensor of each layer that has a role outside the blocks.

        The stem's are every architecture's.
        """
        kinds: tuple[LayerKind, ...] = ("linear",) if role == "classifier" else ("conv", "norm")
        numbers = {**({} if arch is None else _numbers(None, arch, ())), "nth": ""}
        pairs = zip(self.templates(role), kinds, strict=True)
        return tuple(f"{name.format_map(numbers)}{self.sep}{self.leaves[kind][0].source}" for name, kind in pairs)

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
    head: bool = True,
) -> tuple[Entry, ...]:
    """Return an entry for every tensor of the network that a source must give, in order of computation.

    Raises:
        NameMappingError: A block of a kind that the dialect does not know, or two tensors with one name on either side.
    """
    network = layers(
        arch, num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, depth_mult=depth_mult, head=head
    )
    entries = []
    for layer, name in _named(network, dialect, arch, arch.depths(depth_mult)):
        shapes = layer.shapes()
        for leaf in dialect.leaves[layer.kind]:
            if leaf.torch in shapes:
                source = f"{prefix}{name}{dialect.sep}{leaf.source}"
                is_matrix = "condconv" in layer.kind
                layout = leaf.layout.of_experts(layer.kernel_shape) if is_matrix else leaf.layout
                entries.append(Entry(f"{layer.name}.{leaf.torch}", source, layout, shapes[leaf.torch]))
    to_source(entries), to_torch(entries)
    return tuple(entries)


def block_prefixes(arch: Arch, dialect: Dialect, *, prefix: str = "", depth_mult: float = 1.0) -> tuple[str, ...]:
    """Return what the names of each block's variables begin with."""
    template, depths = dialect.trunk + dialect.block, arch.depths(depth_mult)
    blocks = (block for stage in arch.blocks(depth_mult=depth_mult) for block in stage)
    return tuple(prefix + template.format_map(_numbers(block, arch, depths)) for block in blocks)


def to_torch(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return source name -> entry."""
    return _by((entry.source, entry) for entry in entries)


def to_source(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return torch name -> entry."""
    return _by((entry.torch, entry) for entry in entries)


def _named(
    network: Iterable[Layer], dialect: Dialect, arch: Arch, depths: tuple[int, ...]
) -> Iterator[tuple[Layer, str]]:
    """Yield every layer with its source name; `depths` has the number of blocks of each stage."""
    seen: Counter[str] = Counter()
    alike: Counter[BlockKind] = Counter()
    for block, part in groupby(network, key=attrgetter("block")):
        numbers = _numbers(block, arch, depths)
        if block is not None and dialect.alike is not None:
            numbers |= dialect.alike(alike[block.kind])
            alike[block.kind] += 1
        for role, group in groupby(part, key=attrgetter("role")):
            for layer, template in zip(group, dialect.templates(role, block and block.kind), strict=True):
                numbers["timm"] = layer.name.split(".", 3)[-1]
                name = template.format_map(numbers)
                if _NTH in name:
                    seen[name] += 1
                    name = name.replace(_NTH, f"_{seen[name] - 1}" if seen[name] > 1 else "")
                yield layer, name


def _numbers(block: Block | None, arch: Arch, depths: tuple[int, ...]) -> dict[str, int | str]:
    """Return what a template may name; see `Dialect`."""
    firsts = [number for number, stage in enumerate(arch.stages) if not number or stage.stride > 1]
    counts = {"stages": len(arch.stages), "sizes": len(firsts)}
    if block is not None:
        counts |= {"flat": sum(depths[: block.stage]) + block.index, "stage": block.stage, "block": block.index}
        counts["size"] = sum(first <= block.stage for first in firsts) - 1
        counts["size_block"] = sum(depths[firsts[counts["size"]] : block.stage]) + block.index
    letter = chr(ord("a") + counts.get("block", 0))  # behind z Keras goes on with {, |, …
    return {**counts, **{f"{key}1": n + 1 for key, n in counts.items()}, "letter": letter, "nth": _NTH}


def _by(pairs: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for name, entry in pairs:
        if name in table:
            raise NameMappingError(f"{name!r} stands for both {table[name]} and {entry}")
        table[name] = entry
    return table
