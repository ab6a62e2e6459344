"""Which variables of a checkpoint become which tensors of which model, every one of them accounted for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from timm_effnet_ext.arch import row_name
from timm_effnet_ext.convert.checkpoint import Checkpoint, Variables
from timm_effnet_ext.convert.identify import Candidate, identify, nearest, without_foreign
from timm_effnet_ext.convert.keras.dialects import KERAS_DIALECTS
from timm_effnet_ext.convert.names import Dialect, Entry, check
from timm_effnet_ext.convert.pytorch.dialects import TORCH_DIALECTS
from timm_effnet_ext.convert.records import WeightsKind
from timm_effnet_ext.convert.tensorflow.dialects import TF_DIALECTS
from timm_effnet_ext.convert.tensors import TensorEntry
from timm_effnet_ext.errors import NameMappingError, first_few


@dataclass(frozen=True)
class Selection:
    """The reading of a checkpoint that was chosen, and what became of its variables."""

    candidate: Candidate
    entries: tuple[Entry, ...]
    source: Mapping[str, TensorEntry]  # by `Entry.source`
    weights: WeightsKind
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()


def dialects_for(checkpoint: Checkpoint) -> tuple[Dialect, ...]:
    """Return the dialects that files of this framework can have; Keras writes SavedModels too."""
    table = {"tensorflow": (*TF_DIALECTS, *KERAS_DIALECTS), "keras": KERAS_DIALECTS, "torch": TORCH_DIALECTS}
    return table[checkpoint.framework]


def with_named_classifier(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with a dense layer of the user's own, if it is all that a network leaves, as classifier."""
    found = checkpoint.variables
    shapes = {name: entry.shape for name, entry in found.model.items()}
    dialects = dialects_for(checkpoint)
    for candidate in identify(shapes, dialects) or without_foreign(shapes, dialects):
        if names := _own_classifier(found, candidate):
            model, ema = ({names.get(name, name): entry for name, entry in t.items()} for t in (found.model, found.ema))
            notes = (*checkpoint.notes, f"the classifier is {first_few(names)}")
            return replace(checkpoint, variables=replace(found, model=model, ema=ema), notes=notes)
    return checkpoint


def select(checkpoint: Checkpoint, weights: WeightsKind = "ema", model: str | None = None) -> Selection:
    """Choose architecture, dialect and EMA or raw weights.

    Raises:
        NameMappingError: No architecture has these variables, several have and `model` does not say which, some of
            the variables have an EMA twin and some have not, or some are left over.
    """
    found = checkpoint.variables
    shapes = {name: entry.shape for name, entry in found.model.items()}
    candidates = identify(shapes, dialects_for(checkpoint))
    if not candidates:
        raise NameMappingError(f"{checkpoint.path}: {why_none(checkpoint, shapes)}")
    candidate, notes = _choose(checkpoint, candidates, model)
    entries = candidate.plan()
    used = {entry.source for entry in entries}
    spare = {name for name in found.model if name not in used and _is_source_only(name, candidate)}
    others = {name for other in candidates if other.prefix != candidate.prefix for name in _sources(other)} - used
    left = found.model.keys() - used - spare - others
    if left:
        raise NameMappingError(f"{checkpoint.path}: {_left_over(candidate, len(used), left)}")
    source, kind = _weights(checkpoint, used, weights)
    if kind != weights:
        notes = (*notes, "the file has no EMA weights: the raw ones were taken")
    counts = {
        "used": len(used),
        "from_ema": sum(source[name] is found.ema.get(name) for name in used),
        "raw_beside_ema": sum(source[name] is not found.model[name] for name in used),
        "ema_unused": len(found.ema) if kind == "raw" else len(found.ema.keys() - used),
        "other_model": len(others),
        "no_counterpart": len(spare),
        "optimizer_slots": len(found.slots),
        "counters": len(found.counters),
        "metadata": len(found.metadata),
    }
    return Selection(candidate, entries, source, kind, counts, notes)


def _own_classifier(found: Variables, candidate: Candidate) -> dict[str, str]:
    """Return the dialect's names of a dense layer of the user's own, if that is all that a headless network leaves."""
    if candidate.match.num_classes:
        return {}
    left = {name for name in found.model.keys() - _sources(candidate) if not _is_source_only(name, candidate)}
    own = {len(found.model[name].shape): name for name in left}
    if len(left) != 2 or own.keys() != {1, 2}:
        return {}
    match = candidate.match._replace(num_classes=found.model[own[1]].shape[0])
    classifier = [entry for entry in candidate._replace(match=match).plan() if entry.torch.startswith("classifier.")]
    if any(found.model[own[len(entry.source_shape)]].shape != entry.source_shape for entry in classifier):
        return {}
    return {own[len(entry.source_shape)]: entry.source for entry in classifier}


def _is_source_only(name: str, candidate: Candidate) -> bool:
    return name.startswith(candidate.prefix) and candidate.dialect.is_source_only(name[len(candidate.prefix) :])


def _sources(candidate: Candidate) -> set[str]:
    return {entry.source for entry in candidate.plan()}


def _choose(
    checkpoint: Checkpoint, candidates: list[Candidate], model: str | None
) -> tuple[Candidate, tuple[str, ...]]:
    """Return the one reading, and what else would compute the same."""
    if model is not None:
        wanted = [candidate for candidate in candidates if candidate.match.arch_name == row_name(model)]
        if not wanted:
            raise NameMappingError(f"{checkpoint.path}: is not {model}: it fits {_names(candidates)}")
        candidates = wanted
    networks = {candidate.network(): candidate for candidate in reversed(candidates)}
    if len(networks) > 1:
        raise NameMappingError(
            f"{checkpoint.path}: fits {len(networks)} different models: {_names(networks.values())}. "
            "Say which with --model"
        )
    chosen, *others = candidates
    same = f"other rows, scaled, compute the same: {', '.join(other.match.arch_name for other in others)}"
    return chosen, (same,) if others else ()


def _names(candidates: Iterable[Candidate]) -> str:
    return " and ".join(str(candidate.match) for candidate in candidates)


def _left_over(candidate: Candidate, used: int, left: Collection[str]) -> str:
    return (
        f"{len(left)} variables are left over after {used} were used for {candidate.match}: {first_few(left)}. "
        "Is this a model with parts of its own?"
    )


def why_none(checkpoint: Checkpoint, shapes: Mapping[str, Sequence[int]]) -> str:
    """Return what is too much or missing for the nearest architecture, or what stands in the file instead."""
    for candidate in without_foreign(shapes, dialects_for(checkpoint)):
        used = _sources(candidate)
        return _left_over(candidate, len(used), shapes.keys() - used)
    found = nearest(shapes, dialects_for(checkpoint))
    if found is None:
        return f"none of the 26 architectures, under any names that are known; it holds {first_few(shapes)}"
    try:
        check(found.plan(), {name: tuple(shape) for name, shape in shapes.items()})
    except NameMappingError as err:
        return f"fits no architecture; the nearest is {found.match} in dialect {found.dialect.name!r}, but {err}"
    raise AssertionError("a plan that fits is a candidate")


def _weights(
    checkpoint: Checkpoint, used: set[str], weights: WeightsKind
) -> tuple[dict[str, TensorEntry], WeightsKind]:
    """Return the variables to convert by name, and which they are."""
    found = checkpoint.variables
    if weights == "raw" or not found.ema:
        return {name: found.model[name] for name in used}, "raw"
    alone = used - found.ema.keys()
    if alone:
        raise NameMappingError(
            f"{checkpoint.path}: {len(alone)} of {len(used)} variables have no EMA twin: {first_few(alone)}. "
            "A mix would be neither; convert the raw ones with --weights raw"
        )
    others = {name for name in used if found.ema[name].shape != found.model[name].shape}
    if others:
        raise NameMappingError(
            f"{checkpoint.path}: the EMA twins of {len(others)} variables have other shapes: {first_few(others)}. "
            "The file is damaged; its raw ones may be whole: --weights raw"
        )
    return {name: found.ema[name] for name in used}, "ema"
