"""Dialect, architecture and class count of a checkpoint, found from its variables' names and shapes alone."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import NamedTuple

from timm_effnet_ext.arch.identify import Match, depth_fits, identify_state, stage_parts
from timm_effnet_ext.arch.layout import COUNTER_LEAF, Layer, LayerKind, Role, Shape, block_layers, layers
from timm_effnet_ext.arch.rows import ARCHS, Arch
from timm_effnet_ext.convert.dialects.dialect import Dialect, Entry, block_prefixes, plan
from timm_effnet_ext.errors import first_few

_MAX_DEPTH_MULT = 64.0
_MAX_SCOPES = 8  # that are tried for a checkpoint that fits nothing
_NUMBER = re.compile(r"\d+")
_SCOPES = (("edgetpu_", "e"), ("condconv", "cc"), ("b0_8e_depth", "b1_8e"))  # Google's words for parts of our names
_MIN_SHARED = 0.1  # of the names, before an architecture is called the nearest


class Candidate(NamedTuple):
    """One reading of a checkpoint that accounts for every name below `prefix`, with its shape."""

    match: Match
    dialect: Dialect
    prefix: str  # what stands before the dialect's own names, e.g. "efficientnet-b0/"
    reason: str
    classifier: Mapping[str, str] = {}  # the dialect's names of a classifier -> the file's, where they are the user's
    norm: Mapping[str, str] = {}  # torch's names of the tensors of a BatchNorm before the classifier -> the file's

    @property
    def arch(self) -> Arch:
        """The row that it is, unscaled."""
        return ARCHS[self.match.arch_name]

    def plan(self) -> tuple[Entry, ...]:
        """Return the entries that read the checkpoint so."""
        options = {key: value for key, value in self.match._asdict().items() if key != "arch_name"}
        entries = plan(self.arch, self.dialect, prefix=self.prefix, **options)
        return tuple(entry._replace(source=self.classifier.get(entry.source, entry.source)) for entry in entries)

    def is_inside(self, name: str) -> bool:
        """Whether a variable that it does not use would belong to one of its layers or blocks."""
        layers = {source.rpartition(self.dialect.sep)[0] for source in self.sources}
        blocks = block_prefixes(self.arch, self.dialect, prefix=self.prefix, depth_mult=self.match.depth_mult)
        return name.rpartition(self.dialect.sep)[0] in layers or name.startswith(blocks)

    @property
    def sources(self) -> set[str]:
        """The names of the variables that it uses."""
        return {entry.source for entry in self.plan()} | set(self.norm.values())

    def is_spare(self, name: str) -> bool:
        """Whether a variable is known to have no counterpart here."""
        return name.startswith(self.prefix) and self.dialect.is_source_only(name[len(self.prefix) :])

    @property
    def is_named(self) -> bool:
        """Whether the scope that Google's code puts before all names is this architecture's."""
        name = self.prefix.rstrip("/").replace("-", "_").lower()
        for theirs, ours in _SCOPES:
            name = name.replace(theirs, ours)
        return name == self.match.arch_name

    def network(self) -> tuple[object, ...]:
        """Return what tells it from a reading that computes something else."""
        match, arch = self.match, self.arch
        head = arch.head_width(match.width_mult) if match.head else 0
        widths = arch.stem_width(match.width_mult), head, match.num_classes
        return self.prefix, self.dialect.name, arch.act, widths, arch.blocks(match.width_mult, match.depth_mult)


def readings(
    shapes: Mapping[str, Shape], dialects: Sequence[Dialect], is_of_training: Callable[[str], bool]
) -> list[Candidate]:
    """Return every reading of a checkpoint, the likeliest first; a dense layer of the user's own may be the classifier.

    It is the classifier if a headless network leaves nothing else but what training alone needs, such as a loss's
    weights.
    """
    found = identify(shapes, dialects)
    near = found or without_foreign(shapes, dialects)
    own = [mine for one in near if (mine := _with_own_head(one, shapes, is_of_training))]
    # Dialects that differ outside the blocks alone are one where the classifier's name is the user's.
    distinct = {(one.match, one.dialect.block, *one.classifier.values()): one for one in reversed(own)}
    return [*reversed(distinct.values())] or found


def without_classifier(shapes: Mapping[str, Shape], dialects: Sequence[Dialect]) -> list[Candidate]:
    """Return the readings of a checkpoint as networks that give features, whatever stands behind them."""
    found = without_foreign(shapes, dialects, has_classifier=False)
    distinct: dict[tuple[Match, frozenset[str]], Candidate] = {}
    for one in found:  # dialects that differ in the classifier alone read the same
        distinct.setdefault((one.match, frozenset(one.sources)), one)
    return sorted(distinct.values(), key=_likeliest)


def _with_own_head(
    one: Candidate, shapes: Mapping[str, Shape], is_of_training: Callable[[str], bool]
) -> Candidate | None:
    """Return a reading with a classifier of the user's own, or a BatchNorm in front of it, that it leaves over."""
    left = {name for name in shapes.keys() - one.sources if not one.is_spare(name)}
    left = {name for name in left if not is_of_training(name) or name.startswith(one.prefix or ".")}
    norm = _norm(left, one.dialect, shapes)
    whole = one if one.match.num_classes else _with_classifier(one, left - set(norm.values()), shapes)
    if whole is None or not left or left != {*whole.classifier.values(), *norm.values()}:
        return None
    outputs, features = next(entry.shape for entry in whole.plan() if entry.torch == "classifier.weight")
    if norm and (features == outputs or {shapes[name] for name in norm.values()} != {(features,)}):
        return None
    return whole._replace(norm=norm)


def _with_classifier(headless: Candidate, left: Set[str], shapes: Mapping[str, Shape]) -> Candidate | None:
    own = {len(shapes[name]): name for name in left}
    if not headless.match.head or len(left) != 2 or own.keys() != {1, 2}:
        return None
    complete = headless._replace(match=headless.match._replace(num_classes=shapes[own[1]][0]))
    classifier = {e.source: own[len(e.source_shape)] for e in complete.plan() if e.torch.startswith("classifier.")}
    if any(shapes[classifier.get(e.source, e.source)] != e.source_shape for e in complete.plan()):
        return None
    reason = _reason(complete.match, complete.dialect, complete.prefix, len(complete.plan()))
    return complete._replace(reason=f"{reason}, the classifier being {first_few(left)}", classifier=classifier)


def _norm(left: Iterable[str], dialect: Dialect, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return the tensors of the one BatchNorm among some, by torch's names; none where there are several."""
    leaves = {leaf.source: leaf.torch for leaf in dialect.leaves["norm"]} if dialect.head_eps is not None else {}
    parts = {name: name.rpartition(dialect.sep) for name in left if len(shapes[name]) == 1}
    found = [(leaves[leaf], name) for name, (_, _, leaf) in parts.items() if leaf in leaves]
    is_one = len({parts[name][0] for _, name in found}) == 1 and len(found) == len(leaves)
    return dict(found) if is_one else {}


def identify(shapes: Mapping[str, Sequence[int]], dialects: Iterable[Dialect]) -> list[Candidate]:
    """Return every dialect and architecture that the names and shapes fit: exact rows first, then what the scope names.

    `shapes` are the model's variables without EMA twins and optimizer slots. More than one candidate of one
    dialect compute the same, scaled from different rows.
    """
    given = {name: tuple(shape) for name, shape in shapes.items()}
    found: list[Candidate] = []
    read: list[tuple[Match, Set[str]]] = []
    for dialect in dialects:
        for prefix in _prefixes(dialect, given):
            below = {name: shape for name, shape in given.items() if name.startswith(prefix)}
            mine = {n: s for n, s in below.items() if not dialect.is_source_only(n[len(prefix) :])}
            for match in _matches(dialect, prefix, mine):
                # Two dialects that differ outside the blocks alone may both read a network, the second all but its
                # classifier. The one that stands first is taken.
                if not any(mine.keys() < names or (match, mine.keys()) == (known, names) for known, names in read):
                    read.append((match, mine.keys()))
                    found.append(Candidate(match, dialect, prefix, _reason(match, dialect, prefix, len(mine))))
    return sorted(found, key=_likeliest)


def _likeliest(candidate: Candidate) -> tuple[bool, bool]:
    return not candidate.match.is_exact, not candidate.is_named


def nearest(shapes: Mapping[str, Sequence[int]], dialects: Iterable[Dialect]) -> Candidate | None:
    """Return the unscaled architecture that shares the most names with a checkpoint that none fits, if any does."""
    best, best_score = None, _MIN_SHARED
    for dialect in dialects:
        firsts = Counter(name.partition(dialect.sep)[0] + dialect.sep for name in shapes)
        scopes = {"", *_prefixes(dialect, shapes), *(first for first, _ in firsts.most_common(_MAX_SCOPES))}
        vocabulary = _vocabulary(dialect)
        below = {scope: {name[len(scope) :] for name in shapes if name.startswith(scope)} for scope in scopes}
        below = {scope: names for scope, names in below.items() if any(_form(name) in vocabulary for name in names)}
        for arch in _nameable(dialect) if below else ():
            wanted = {entry.source for entry in plan(arch, dialect)}
            for scope, names in below.items():
                score = len(wanted & names) / len(wanted | names)
                if score > best_score:
                    match = Match(arch.name, *_ends(dialect, scope, arch, shapes))
                    best, best_score = Candidate(match, dialect, scope, f"{score:.0%} of the names are shared"), score
    return best


def _nameable(dialect: Dialect) -> list[Arch]:
    """Return the architectures whose blocks a dialect can name."""
    return [
        arch for arch in ARCHS.values() if {(stage.op, stage.expand != 1) for stage in arch.stages} <= dialect.kinds
    ]


def without_foreign(
    shapes: Mapping[str, Sequence[int]], dialects: Iterable[Dialect], *, has_classifier: bool = True
) -> list[Candidate]:
    """Return the readings of a checkpoint after names that no layer of the dialect can have were left out."""
    found: list[Candidate] = []
    for dialect in dialects:
        prefixes = _prefixes(dialect, shapes)
        vocabulary = _vocabulary(dialect, int(has_classifier)) if prefixes else frozenset()
        for prefix in prefixes:
            known = {n: s for n, s in shapes.items() if n.startswith(prefix) and _form(n[len(prefix) :]) in vocabulary}
            found += identify(known, (dialect,))
    return found


def _vocabulary(dialect: Dialect, num_classes: int = 1) -> frozenset[str]:
    """Return the forms of all names that architectures have in a dialect."""
    deepest = {arch.stages: arch for arch in sorted(_nameable(dialect), key=lambda arch: arch.depth)}
    return frozenset(
        _form(entry.source) for arch in deepest.values() for entry in plan(arch, dialect, num_classes=num_classes)
    )


def _form(name: str) -> str:
    """Return a name with its numbers made alike."""
    return _NUMBER.sub("#", name)


def _ends(dialect: Dialect, prefix: str, arch: Arch, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """Return the classes and the image's channels that the shapes of classifier and stem say."""

    def width(role: Role, kind: LayerKind, axis: int) -> int | None:
        shape = shapes.get(prefix + dialect.end(role, arch)[0])
        state = None if shape is None else dialect.leaves[kind][0].layout.shape(tuple(shape))
        return state[axis] if state is not None and len(state) > axis else None

    return width("classifier", "linear", 0) or 0, width("stem", "conv", 1) or 3


def _prefixes(dialect: Dialect, names: Iterable[str]) -> list[str]:
    """Return what stands before the stem's kernel and norm, wherever both are."""
    given = set(names)
    stem, norm = dialect.end("stem")
    heads = [name[: -len(stem)] for name in given if name.endswith(stem)]
    return [head for head in heads if (not head or head.endswith(dialect.sep)) and f"{head}{norm}" in given]


def _matches(dialect: Dialect, prefix: str, given: Mapping[str, Shape]) -> list[Match]:
    """Return the matches of all distinct networks that have exactly the given names."""
    tried: set[tuple[object, ...]] = set()
    found: list[Match] = []
    for arch in _nameable(dialect):
        head, classifier = (prefix + dialect.end(role, arch)[0] in given for role in ("head", "classifier"))
        for depth_mult in _depth_mults(arch, len(given), head, classifier):
            network = (stage_parts(arch), arch.depths(depth_mult))
            if network in tried:
                continue
            tried.add(network)
            entries = plan(arch, dialect, prefix=prefix, depth_mult=depth_mult, head=head, num_classes=int(classifier))
            if {entry.source for entry in entries} == given.keys():
                state = {entry.torch: entry.layout.shape(given[entry.source]) or () for entry in entries}
                found += [match for match in identify_state(state) if match not in found]
    return found


def _depth_mults(arch: Arch, tensors: int, head: bool, classifier: bool) -> Iterator[float]:
    """Yield 1 or another depth multiplier, if one gives the network that many tensors."""
    outside, *per_block = _tensors_of(arch, head, classifier)

    def count(depth_mult: float) -> int:
        return outside + sum(map(operator.mul, per_block, arch.depths(depth_mult)))

    if count(1.0) == tensors:
        yield 1.0
        return
    lo, hi = 0.0, _MAX_DEPTH_MULT  # the number grows with the depth, so bisect
    while hi - lo > 1e-4:
        middle = (lo + hi) / 2
        lo, hi = (lo, middle) if count(middle) >= tensors else (middle, hi)
    depth_mult = depth_fits(arch, arch.depths(hi)) if count(hi) == tensors else None
    if depth_mult is not None:
        yield depth_mult


@lru_cache
def _tensors_of(arch: Arch, head: bool, classifier: bool) -> tuple[int, ...]:
    """Return how many tensors a source has outside the blocks, and in a block of each stage."""
    outside = [layer for layer in layers(arch, head=head, num_classes=int(classifier)) if layer.block is None]
    return _count(outside), *(_count(block_layers(stage[0])) for stage in arch.blocks())


def _count(layer_list: Iterable[Layer]) -> int:
    """Return the number of tensors that a source has for these layers."""
    return sum(leaf != COUNTER_LEAF for layer in layer_list for leaf in layer.shapes())


def _reason(match: Match, dialect: Dialect, prefix: str, tensors: int) -> str:
    under = f" under {prefix!r}" if prefix else ""
    return f"all {tensors} names of dialect {dialect.name!r}{under} and their shapes fit {match}"
