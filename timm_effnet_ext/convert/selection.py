"""Which variables of a checkpoint become which tensors of which model, every one of them accounted for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from timm_effnet_ext.arch.rows import row_name
from timm_effnet_ext.convert.checkpoint.affine import behind_norm
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Framework, Statement, TensorEntry, Variables
from timm_effnet_ext.convert.dialects import match
from timm_effnet_ext.convert.dialects.dialect import Dialect, Entry
from timm_effnet_ext.convert.dialects.keras import KERAS_DIALECTS
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.convert.dialects.pytorch import TORCH_DIALECTS
from timm_effnet_ext.convert.dialects.tensorflow import TF_DIALECTS
from timm_effnet_ext.convert.numerics import Numerics, about, decide, names_of, sizes_as_stated
from timm_effnet_ext.convert.records import Options, WeightsKind
from timm_effnet_ext.errors import NameMappingError, first_few

# Names of tensors that stand beside a network in training and compute nothing of its outputs.
_OF_TRAINING = re.compile(
    r"(^|[._/])(\w*criterion|\w*loss(es)?(_fn|_func)?|\w*metrics?|pos_weight|class_weights?)([._/]|$)"
)

# What files of a framework can have; Keras writes SavedModels, and has them as layers.
_KERAS_OR_TF = (*KERAS_DIALECTS, *TF_DIALECTS)
_DIALECTS: Mapping[Framework, tuple[Dialect, ...]] = {
    "tensorflow": _KERAS_OR_TF, "keras": _KERAS_OR_TF, "torch": TORCH_DIALECTS,
}  # fmt: skip

_NORM = (
    "{} were folded into the classifier: it was assumed that nothing but dropout stands between, and the epsilon that "
    "such layers have by themselves; a file of weights says neither"
)


@dataclass(frozen=True)
class Selection:
    """The reading of a checkpoint that was chosen, and what became of its variables."""

    candidate: Candidate
    numerics: Numerics
    entries: tuple[Entry, ...]
    source: Mapping[str, TensorEntry]  # by `Entry.source`
    weights: WeightsKind
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()


def readings(checkpoint: Checkpoint, *, headless: bool = False) -> list[Candidate]:
    """Return every reading of a checkpoint, the likeliest first; `headless` ones have no classifier."""
    found = checkpoint.variables.model
    shapes, dialects = {name: entry.shape for name, entry in found.items()}, _DIALECTS[checkpoint.framework]
    if headless:
        return match.without_classifier(shapes, dialects)
    return match.readings(shapes, dialects, lambda name: _is_of_training(name, found[name]))


def select(checkpoint: Checkpoint, candidates: list[Candidate], options: Options) -> Selection:
    """Choose among the readings of a checkpoint: architecture, dialect, numerics, and EMA or raw weights.

    Raises:
        NameMappingError: No architecture has these variables, several have and neither `model` nor `prefix` says which,
            some of the variables have an EMA twin and some have not, or some are left over.
    """
    found = checkpoint.variables
    if checkpoint.problem and not options.headless:
        raise NameMappingError(checkpoint.problem)
    if not candidates:
        raise NameMappingError(why_none(checkpoint))
    candidate, same = _choose(checkpoint.statements, candidates, options)
    entries = candidate.plan()
    used = {entry.source for entry in entries}
    spare = {name for name in found.model if name not in used and candidate.is_spare(name)}
    others = {name for other in candidates if other.prefix != candidate.prefix for name in other.sources} - used
    outside = _outside(found, candidate, used | others)
    left = found.model.keys() - candidate.sources - spare - others - outside
    if options.headless:
        outside |= {name for name in left if not candidate.is_inside(name)}
        left -= outside
    if left:
        raise NameMappingError(_left_over(candidate, len(used), {name: found.model[name].shape for name in left}))
    numerics = decide(candidate, checkpoint.statements, options.model)
    if numerics.problem:
        raise NameMappingError(numerics.problem)
    source, kind = _weights(found, used | set(candidate.norm.values()), options.weights)
    notes = [*same, *numerics.notes, *_padding_note(candidate, checkpoint.statements)]
    if candidate.norm:
        notes.append(_NORM.format(first_few(candidate.norm.values())))
    if outside:
        what = "the network" if options.headless else repr(candidate.prefix)
        notes.append(f"{len(outside)} variables outside {what} were left out: {first_few(outside)}")
    if kind != options.weights:
        notes.append("no EMA weights were found: the raw ones were taken")
    counts = {
        "used": len(used),
        "from_ema": sum(source[name] is found.ema.get(name) for name in used),
        "raw_beside_ema": sum(source[name] is not found.model[name] for name in used),
        "ema_unused": len(found.ema) if kind == "raw" else len(found.ema.keys() - used),
        "other_model": len(others),
        "outside_the_model": len(outside),
        "no_counterpart": len(spare),
        "folded": len(found.folded) + len(candidate.norm),
        "optimizer_slots": len(found.slots),
        "counters": len(found.counters),
        "metadata": len(found.metadata),
    }
    return Selection(candidate, numerics, entries, _behind_norm(candidate, source), kind, counts, tuple(notes))


def _padding_note(candidate: Candidate, statements: Sequence[Statement]) -> tuple[str, ...]:
    """Say where a code that pads by fixed numbers of pixels computes something else, as exactly as is known."""
    sizes = sizes_as_stated(candidate, statements)
    if sizes is None:
        return (candidate.dialect.note,) if candidate.dialect.note else ()
    return (f"its own code pads for images whose sides are {sizes}: at others it computes otherwise",)


def _outside(found: Variables, candidate: Candidate, known: Collection[str]) -> set[str]:
    """Return the variables that lie wholly outside a complete network: of a loss, a metric, a decoder.

    A dense layer beside a network without classifier may be its head, so it is not among them.
    """
    if not candidate.prefix:
        return set()
    outside = {name: found.model[name] for name in found.model.keys() - known if not name.startswith(candidate.prefix)}
    if candidate.match.num_classes:
        return set(outside)
    layers = {name: re.split(r"[./][^./]*$", name)[0] for name in outside}
    dense = {layers[n] for n, entry in outside.items() if len(entry.shape) == 2 and not _is_of_training(n, entry)}
    return {name for name in outside if layers[name] not in dense}


def _is_of_training(name: str, entry: TensorEntry) -> bool:
    """Whether a variable is a counter or state of training: whole numbers, or named after a loss or a metric."""
    return entry.dtype.startswith(("int", "uint", "bool")) or bool(_OF_TRAINING.search(name))


def _choose(
    statements: Sequence[Statement], candidates: list[Candidate], options: Options
) -> tuple[Candidate, tuple[str, ...]]:
    """Return the one reading, and what else would compute the same."""
    if options.prefix is not None:
        candidates = _under_prefix(candidates, options.prefix)
    if options.model is not None:
        wanted = [candidate for candidate in candidates if candidate.match.arch_name == row_name(options.model)]
        if not wanted:
            raise NameMappingError(f"is not {options.model}: it fits {_names(candidates)}")
        candidates = wanted
    else:
        candidates = _as_stated(statements, candidates)
    networks = {candidate.network(): candidate for candidate in reversed(candidates)}
    if len(networks) > 1:
        several = list(networks.values())
        prefixes = {candidate.prefix for candidate in several}
        ways = [f"--prefix {prefix}" for prefix in sorted(prefixes) if prefix] if len(prefixes) > 1 else []
        if len({candidate.match.arch_name for candidate in several}) == len(several):
            ways = ["--model", *ways]
        raise NameMappingError(
            f"fits {len(several)} different models: {_names(several)}. Say which with {' or '.join(ways)}"
        )
    chosen, *others = candidates
    same = f"other rows, scaled, compute the same: {', '.join(other.match.arch_name for other in others)}"
    return chosen, (same,) if others else ()


def _under_prefix(candidates: list[Candidate], prefix: str) -> list[Candidate]:
    """Return the readings below a prefix; the separator at its end may be left out."""
    found = [candidate for candidate in candidates if prefix.rstrip("./") == candidate.prefix.rstrip("./")]
    if not found:
        there = first_few({repr(candidate.prefix) for candidate in candidates})
        raise NameMappingError(f"--prefix {prefix}: no network lies there, but under {there}")
    return found


def _as_stated(statements: Sequence[Statement], candidates: list[Candidate]) -> list[Candidate]:
    """Return the readings that have a name which the source states, or all where it states none.

    Raises:
        NameMappingError: What the source certainly is called is none of them.
    """
    rows = {candidate.match.arch_name for candidate in candidates}
    prefixes = {candidate.prefix for candidate in candidates}
    named = names_of(about(statements, prefixes.pop()) if len(prefixes) == 1 else ())
    for statement, name in named:
        if statement.is_certain and name.row not in rows:
            raise NameMappingError(f"{statement.where} says {name.name}, but the weights fit {_names(candidates)}")
    stated = next((name.row for _, name in named if name.row in rows), None)
    return [c for c in candidates if stated in (None, c.match.arch_name)] if stated else candidates


def _names(candidates: Iterable[Candidate]) -> str:
    """Return the models of some readings, with their prefixes where these differ."""
    candidates = tuple(candidates)
    is_plain = len({candidate.prefix for candidate in candidates}) == 1
    return " and ".join(str(c.match) if is_plain else f"{c.match} under {c.prefix!r}" for c in candidates)


def _left_over(candidate: Candidate, used: int, left: Mapping[str, Sequence[int]]) -> str:
    named = first_few(f"{name} {tuple(shape)}" for name, shape in left.items())
    return (
        f"{len(left)} variables are left over after {used} were used for {candidate.match}: {named}. "
        "Is this a model with parts of its own? If they are its head, --headless leaves it out"
    )


def why_none(checkpoint: Checkpoint) -> str:
    """Return what is too much or missing for the nearest architecture, or what stands in the file instead."""
    shapes = {name: entry.shape for name, entry in checkpoint.variables.model.items()}
    for statement, name in names_of(checkpoint.statements):
        if name.row is None:
            return f"{statement.where} says {name.name}, which is none of the 29 architectures"
    dialects = _DIALECTS[checkpoint.framework]
    for candidate in (*match.without_foreign(shapes, dialects), *match.without_classifier(shapes, dialects)):
        used = candidate.sources
        left = {name for name in shapes.keys() - used if not candidate.is_spare(name)}
        return _left_over(candidate, len(used), {name: shapes[name] for name in left})
    found = match.nearest(shapes, dialects)
    if found is None:
        return f"none of the 29 architectures, under any names that are known; it holds {first_few(shapes)}"
    near = f"the nearest is {found.match} in dialect {found.dialect.name!r}"
    return f"fits no architecture; {near}, but {_misfit(found, shapes)}"


def _misfit(candidate: Candidate, shapes: Mapping[str, Sequence[int]]) -> str:
    """Return what of a network is missing, too much or of another shape, by the rules by which one fits."""
    wanted = {entry.source: entry for entry in candidate.plan()}
    below = {name for name in shapes if name.startswith(candidate.prefix) and not candidate.is_spare(name)}
    missing = wanted.keys() - below
    wrong = [
        f"{name} has {tuple(shapes[name])}, needs {entry.source_shape}"
        for name, entry in wanted.items()
        if name in below and tuple(shapes[name]) != entry.source_shape
    ]
    problems = (("of another shape", wrong), ("missing", missing), ("too many", below - wanted.keys()))
    return "; ".join(f"{len(names)} {what}: {first_few(names)}" for what, names in problems if names)


def _behind_norm(candidate: Candidate, source: Mapping[str, TensorEntry]) -> Mapping[str, TensorEntry]:
    """Return the tensors, with a BatchNorm in front of the classifier folded into it."""
    if not candidate.norm:
        return source
    names = {entry.torch: entry.source for entry in candidate.plan()}
    kernel, bias = (names[f"classifier.{leaf}"] for leaf in ("weight", "bias"))
    norm = {leaf: source[name] for leaf, name in candidate.norm.items()}
    one = behind_norm(source[kernel], source[bias], norm, candidate.dialect.head_eps or 0.0)
    return {**source, kernel: one["kernel"], bias: one["bias"]}


def _weights(found: Variables, used: set[str], weights: WeightsKind) -> tuple[dict[str, TensorEntry], WeightsKind]:
    """Return the variables to convert by name, and which they are."""
    if weights == "raw" or not found.ema:
        return {name: found.model[name] for name in used}, "raw"
    alone = used - found.ema.keys()
    if alone:
        raise NameMappingError(
            f"{len(alone)} of {len(used)} variables have no EMA twin: {first_few(alone)}. "
            "A mix would be neither; convert the raw ones with --weights raw"
        )
    others = {name for name in used if found.ema[name].shape != found.model[name].shape}
    if others:
        raise NameMappingError(
            f"the EMA twins of {len(others)} variables have other shapes: {first_few(others)}. "
            "The file is damaged; its raw ones may be whole: --weights raw"
        )
    return {name: found.ema[name] for name in used}, "ema"
