"""What the outputs that are written mean: their number without a background class, their names, their problem type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Statement
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import EffNetExtError, first_few
from timm_effnet_ext.files.hub_format import MULTI_LABEL, REGRESSION, activation_of, usual_problem_type

WITH_BACKGROUND = 1001  # ImageNet-1k and class 0 for none of them: tensorflow/tpu efficientnet_edgetpu_builder.py
NO_HEAD = "feature maps: there is no head (conv_head, bn2) and no classifier"
_KNOWN = {1000: "ImageNet-1k", 21841: "ImageNet-21k", 21843: "ImageNet-21k and two more"}


class Named(NamedTuple):
    """The names of the classes by output, None where one has none, and who says so."""

    names: tuple[str | None, ...] | None = None
    origin: str = ""
    descriptions: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


class Classes(NamedTuple):
    """What is written of a classifier: how many outputs, how many before them are left out, and what they mean."""

    num_classes: int
    cut: int
    problem_type: str | None  # None without classifier
    problem_origin: str
    named: Named
    text: str  # all of it, for people


def choose_classes(found: int, checkpoint: Checkpoint, options: Options, *, has_head: bool = True) -> Classes:
    """Return what to write of a classifier with `found` outputs, 0 for none; without head there are feature maps alone.

    1001 outputs in a TensorFlow file are ImageNet behind a background class, unless 1001 names are given for them.

    Raises:
        EffNetExtError: The number of label names, or of the classes that were expected, is another one; names are in
            another order than the source has them; `multi_label`, and the source says otherwise.
    """
    names = options.label_names
    is_named = names is not None and len(names) == found
    has_background = found == WITH_BACKGROUND and checkpoint.framework == "tensorflow"
    cut = int(has_background and not options.keep_background and not is_named)
    num_classes = found - cut
    if options.num_classes not in (None, num_classes):
        raise EffNetExtError(f"{num_classes} classes came out, expected {options.num_classes}: another checkpoint?")
    problem_type, origin = _problem_type(num_classes, checkpoint.statements, options)
    named = _names(num_classes, checkpoint.statements, names)
    text = _text(num_classes, cut, problem_type, origin, named) if has_head else NO_HEAD
    return Classes(num_classes, cut, problem_type, origin, named, text)


def _problem_type(num_classes: int, statements: Sequence[Statement], options: Options) -> tuple[str | None, str]:
    """Return what the outputs are, and who says so."""
    stated = next(((s.problem_type, s.where) for s in statements if s.problem_type), None)
    if not num_classes:
        if options.multi_label:
            raise EffNetExtError("--multi-label is about classes, and there is no classifier")
        return None, ""
    if options.multi_label:
        if stated and stated[0] != MULTI_LABEL:
            raise EffNetExtError(f"--multi-label, but {stated[1]} says {stated[0]}. Leave it out")
        return MULTI_LABEL, "given: --multi-label"
    return stated or (usual_problem_type(num_classes), "assumed from their number")


def _names(num_classes: int, statements: Sequence[Statement], given: Sequence[str] | None) -> Named:
    """Return the names that were given, else those of the first statement that has as many."""
    known = Named()
    notes: tuple[str, ...] = ()
    for statement in statements:
        if not statement.label_names:
            continue
        names = _fitting(statement.label_names, num_classes)
        if names is None:
            numbers, where = sorted(statement.label_names), statement.where
            named = f"{len(numbers)} classes, {numbers[0]} to {numbers[-1]}"
            notes = (*notes, f"{where} names {named}, the classifier has {num_classes}: left out")
        elif known.names is None:
            known = Named(names, statement.where, statement.label_descriptions)
    if given is None:
        return known._replace(notes=notes)
    if len(given) not in _counts(num_classes):
        raise EffNetExtError(
            f"{len(given)} label names for {num_classes} classes. Name each class once, in their order"
        )
    _check_order(given, known)
    return Named(tuple(given), "given: --label-names", notes=notes)


def _counts(num_classes: int) -> tuple[int, ...]:
    """Return how many names there may be; one output has the name of yes, or the names of no and yes."""
    return (1, 2) if num_classes == 1 else (num_classes,)


def _fitting(names: Mapping[int, str], num_classes: int) -> tuple[str | None, ...] | None:
    """Return the names in a row, with None in gaps, or None where they are of other outputs."""
    count = max(names) + 1
    return tuple(names.get(i) for i in range(count)) if num_classes and count in _counts(num_classes) else None


def _check_order(given: Sequence[str], known: Named) -> None:
    """Raise if a name that was given has another output than the source says.

    Other names, such as translations, cannot be compared.
    """
    places = {name: i for i, name in enumerate(known.names or ()) if name is not None}
    moved = [f"{name!r} is {places[name]}, not {i}" for i, name in enumerate(given) if places.get(name, i) != i]
    if moved:
        raise EffNetExtError(
            f"the label names are in another order than {known.origin} has them: output {first_few(moved, 3)}. "
            "Leave out --label-names, or name the classes in that order"
        )


def _text(num_classes: int, cut: int, problem_type: str | None, origin: str, named: Named) -> str:
    """Return the sentence about the outputs: how many, how they become probabilities, what they are called."""
    if problem_type is None:
        return "no classifier"
    count = "1 output" if num_classes == 1 else f"{num_classes} classes"
    names = f"names: {named.origin}"
    known = _KNOWN.get(num_classes)
    if cut:
        count += f" ({known}): the first of {num_classes + cut} was cut, as it stands for the background"
    elif known and named.names is None:
        count += f" ({known}, by their number)"
    if named.names is None:
        names = "names by ImageNet" if known else "names unknown, --label-names gives them"
    return f"{count}; {_meaning(num_classes, problem_type)} ({origin}); {names}"


def _meaning(num_classes: int, problem_type: str) -> str:
    if problem_type == REGRESSION:
        return "numbers, no probabilities"
    function = activation_of(problem_type, num_classes)
    if num_classes == 1:
        return f"{function}: yes or no"
    return f"{function}: each for itself" if function == "sigmoid" else f"{function}: one of them"
