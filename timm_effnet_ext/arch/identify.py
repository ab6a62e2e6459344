"""Which architecture a state_dict belongs to, found from its keys and shapes alone (standard library only)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from timm_effnet_ext.arch.layout import COUNTER_LEAF, Shape, block_layers, layers, state_shapes
from timm_effnet_ext.arch.rows import ARCHS, Arch

STEPS = (0.25, 0.1, 0.05, 0.01, 0.001)  # a multiplier is looked for among multiples of these, the coarsest first
_LAST_NORMS = ("bn3", "bn2", "bn1")  # the first of them that a block has gives its output channels


class Match(NamedTuple):
    """One architecture whose every key and shape agree; the multipliers are the roundest that do.

    Without `head` it ends with the last block, as networks do that are made for their feature maps.
    """

    arch_name: str
    num_classes: int
    in_chans: int
    width_mult: float = 1.0
    depth_mult: float = 1.0
    head: bool = True

    @property
    def is_exact(self) -> bool:
        """Whether the row fits without scaling."""
        return self.width_mult == 1 and self.depth_mult == 1

    def __str__(self) -> str:
        scaled = "" if self.is_exact else f", width_mult={self.width_mult:g}, depth_mult={self.depth_mult:g}"
        what = f"num_classes={self.num_classes}" if self.head else "without head"
        return f"{self.arch_name} ({what}, in_chans={self.in_chans}{scaled})"


class _Seen(NamedTuple):
    """What a state_dict says about its network; stage by stage where a tuple."""

    in_chans: int
    num_classes: int
    stem: int
    head: int  # 0: none
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    parts: tuple[frozenset[str], ...]  # module names in the first block


def identify_state(shapes: Mapping[str, Sequence[int]]) -> list[Match]:
    """Return the architectures that have exactly these keys and shapes.

    An unscaled row excludes scaled ones: every row is also its smaller neighbour, scaled. Among scaled ones
    the fewest and roundest multipliers come first; they differ in training settings, not in what they compute.
    `num_batches_tracked` may be there or not.
    """
    given = {key: tuple(shape) for key, shape in shapes.items() if not key.endswith(COUNTER_LEAF)}
    seen = _look(given)
    if seen is None:
        return []
    verified: dict[tuple[object, ...], bool] = {}
    found = []
    for arch in ARCHS.values():
        if seen.parts != stage_parts(arch):
            continue
        match = _fit(arch, seen)
        if match is None:
            continue
        network = (arch.blocks(match.width_mult, match.depth_mult), seen.head)
        if network not in verified:
            verified[network] = _needs(match) == given
        if verified[network]:
            found.append(match)
    return [match for match in found if match.is_exact] or sorted(found, key=_roughness)


@lru_cache
def stage_parts(arch: Arch) -> tuple[frozenset[str], ...]:
    """Return the module names of each stage's first block."""
    return tuple(frozenset(_part(layer.name) for layer in block_layers(stage[0])) for stage in arch.blocks())


def depth_fits(arch: Arch, found: Sequence[int]) -> float | None:
    """Return the roundest `depth_mult` that gives a stage those numbers of blocks, or None."""
    if len(found) != len(arch.stages):
        return None
    lo, hi = 0.0, math.inf
    for s, (stage, depth) in enumerate(zip(arch.stages, found, strict=True)):
        if arch.scales_in_depth(s):
            lo = max(lo, (depth - 1) / (stage.repeat * arch.depth))
            hi = min(hi, depth / (stage.repeat * arch.depth))
    return next((mult for mult in round_values(lo, hi) if arch.depths(mult) == tuple(found)), None)


def round_values(lo: float, hi: float) -> Iterator[float]:
    """Yield 1 if it lies in [lo, hi], then multiples of each of STEPS that do, the nearest to 1 first."""
    if lo <= 1 <= hi:
        yield 1.0
    for step in STEPS if hi < math.inf else ():
        multiples = range(max(1, math.floor(lo / step)), math.ceil(hi / step) + 1)
        yield from sorted((round(k * step, 3) for k in multiples), key=lambda value: abs(value - 1))


def _look(shapes: Mapping[str, Shape]) -> _Seen | None:
    """Return what the stem, the stages and the head say, or None where this is no EfficientNet."""
    stem, head, end = (shapes.get(f"{name}.weight", ()) for name in ("conv_stem", "conv_head", "classifier"))
    indices: dict[int, set[int]] = {}
    parts: dict[int, set[str]] = {}
    for key in shapes:
        name = key.split(".")
        if name[0] == "blocks" and len(name) > 4 and name[1].isdecimal() and name[2].isdecimal():
            indices.setdefault(int(name[1]), set()).add(int(name[2]))
            if name[2] == "0":
                parts.setdefault(int(name[1]), set()).add(_part(key.rpartition(".")[0]))
    if len(stem) != 4 or len(head) not in (0, 4) or len(end) not in (0, 2) or not _is_counted(indices):
        return None
    if not all(_is_counted(blocks) for blocks in indices.values()):
        return None
    widths = []
    for stage in range(len(indices)):
        names = (f"blocks.{stage}.0.{name}.weight" for name in _LAST_NORMS)
        weight = next((shapes[name] for name in names if name in shapes), ())
        if len(weight) != 1:
            return None
        widths.append(weight[0])
    return _Seen(
        in_chans=stem[1],
        num_classes=end[0] if end else 0,
        stem=stem[0],
        head=head[0] if head else 0,
        depths=tuple(len(indices[stage]) for stage in range(len(indices))),
        widths=tuple(widths),
        parts=tuple(frozenset(parts[stage]) for stage in range(len(indices))),
    )


def _fit(arch: Arch, seen: _Seen) -> Match | None:
    """Return the row with the multipliers that its depths and widths ask for, or None."""
    depth = depth_fits(arch, seen.depths)
    if depth is None:
        return None
    # A rounded width lies at most 12 below and 4 above its channels: round_channels, divisor 8.
    per_stage = [(stage.out_chs * arch.width, width) for stage, width in zip(arch.stages, seen.widths, strict=True)]
    lo = max((width - 12) / chs for chs, width in per_stage)
    hi = min((width + 4) / chs for chs, width in per_stage)
    for mult in round_values(lo, hi):
        if arch.stem_width(mult) != seen.stem or (seen.head and arch.head_width(mult) != seen.head):
            continue
        if tuple(stage[0].out_chs for stage in arch.blocks(mult)) == seen.widths:
            return Match(arch.name, seen.num_classes, seen.in_chans, mult, depth, bool(seen.head))
    return None


def _needs(match: Match) -> dict[str, Shape]:
    """Return key -> shape of the match without the counters."""
    all_layers = layers(ARCHS[match.arch_name], **{k: v for k, v in match._asdict().items() if k != "arch_name"})
    return {key: shape for key, shape in state_shapes(all_layers).items() if not key.endswith(COUNTER_LEAF)}


def _roughness(match: Match) -> tuple[int, float]:
    """Order matches: the fewest multipliers, the roundest values, the nearest to 1."""
    mults = (match.width_mult, match.depth_mult)
    step = sum(next(i for i, step in enumerate(STEPS) if math.isclose(m / step, round(m / step))) for m in mults)
    return sum(m != 1 for m in mults) * len(STEPS) * 2 + step, sum(abs(math.log(m)) for m in mults)


def _part(layer_name: str) -> str:
    return layer_name.split(".", 3)[3]


def _is_counted(numbers: Iterable[int]) -> bool:
    """Whether the numbers are 0, 1, 2, … without a gap."""
    found = set(numbers)
    return bool(found) and found == set(range(len(found)))
