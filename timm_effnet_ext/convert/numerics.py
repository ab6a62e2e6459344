"""With which padding and BatchNorm epsilon weights were trained: by what is known of them, or not decided.

Neither changes a name or a shape. timm's `efficientnet_b0` (PyTorch's padding, an epsilon of 1e-5) and its
`tf_efficientnet_b0` (TensorFlow's, 1e-3) cannot be told apart by their tensors, nor by what they make of photos.

Code that pads by fixed numbers of pixels does at some image sizes what TensorFlow's SAME does. SAME pads a strided
convolution of an odd kernel k by k // 2 - 1 pixels before and k // 2 behind an even size, and by k // 2 on either side
of an odd one. Code that pads by one of the two, whatever comes, computes the same where each of its strided layers gets
a size that it was made for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

from timm_effnet_ext.arch.names import PYTORCH, TF_ONLY, TimmName, read_name
from timm_effnet_ext.arch.rows import PREFIX, TIMM_PREFIX
from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.errors import NameMappingError, first_few

# A relative that is a scaled row of ours with PyTorch's numerics: row, width_mult, depth_mult.
_SCALED_RELATIVES = {("efficientnetv2_s", 0.8, 0.9): "efficientnetv2_rw_t"}

SCALE: Mapping[str, Any] = {"width_mult": 1, "depth_mult": 1, "in_chans": 3}
"""Arguments that the shapes show, whatever is said of them, with their usual values."""


class Numerics(NamedTuple):
    """Arguments of our model that no shape shows, and who says so of each; `problem` if nobody says enough."""

    model_args: Mapping[str, Any]
    origins: Mapping[str, str]
    problem: str | None = None
    notes: tuple[str, ...] = ()


def about(statements: Iterable[Statement], prefix: str) -> tuple[Statement, ...]:
    """Return the statements that are about the network below a prefix."""
    return tuple(statement for statement in statements if statement.prefix in (None, prefix))


def names_of(statements: Iterable[Statement]) -> list[tuple[Statement, TimmName]]:
    """Return the statements that name a model of timm's or ours, with what they name."""
    found = ((statement, read_name(statement.name)) for statement in statements if statement.name)
    return [(statement, named) for statement, named in found if named is not None]


def decide(candidate: Candidate, statements: Iterable[Statement], model: str | None = None) -> Numerics:
    """Return the numerics of a network by a name that is stated, then its dialect, then the name that was asked for.

    Raises:
        NameMappingError: A name that is stated is another model's, or contradicts the one that was asked for; or
            our model computes something else than the code of that dialect does with so few channels.
    """
    statements = tuple(
        one for one in about(statements, candidate.prefix) if not one.dialects or candidate.dialect.name in one.dialects
    )
    numerics = _by_names(candidate, statements, model) if candidate.dialect.numerics is None else _by_dialect(candidate)
    args, origins = dict(numerics.model_args), dict(numerics.origins)
    for statement in reversed(statements):  # the first one counts
        stated = {name: value for name, value in statement.model_args.items() if name not in SCALE}
        args |= stated
        origins |= dict.fromkeys(stated, statement.where)
    if numerics.problem and PYTORCH.keys() <= {name for s in statements for name in s.model_args}:
        numerics = numerics._replace(problem=None)
    ours = {"pad_type": "same", "bn_eps": 1e-3, "act_layer": candidate.arch.act, "global_pool": "avg"}
    args = {name: value for name, value in args.items() if value != ours.get(name)}
    return numerics._replace(model_args=args, origins=origins)


def _by_dialect(candidate: Candidate) -> Numerics:
    """Return the numerics of the one code that has a dialect's names."""
    dialect, match, arch = candidate.dialect, candidate.match, candidate.arch
    if not dialect.first_shortcut and any(
        stage[0].shortcut for stage in arch.blocks(match.width_mult, match.depth_mult)
    ):
        raise NameMappingError(
            f"{match} is so narrow that the first block of a stage keeps its number of channels: our model adds its "
            f"input then, the code of dialect {dialect.name!r} does not. It cannot be converted"
        )
    scaled = replace(arch, width=arch.width * match.width_mult, depth=arch.depth * match.depth_mult)
    args = dialect.numerics(scaled)  # type: ignore[misc]
    return _numerics(args, f"files of dialect {dialect.name!r}")


def _by_names(candidate: Candidate, statements: Iterable[Statement], model: str | None) -> Numerics:
    """Return the numerics of names that timm gives to two models."""
    row, named = candidate.match.arch_name, names_of(statements)
    said = {tuple(sorted(name.model_args.items())): (s, name) for s, name in reversed(named) if name.row == row}
    asked = None if model is None else read_name(model)
    if len(said) == 1:
        ((statement, stated),) = said.values()
        if asked is not None and asked.row == row and asked.model_args != stated.model_args:
            raise NameMappingError(
                f"{statement.where} says {stated.name} ({_words(stated.model_args)}), --model says {asked.name} "
                f"({_words(asked.model_args)}). Leave out --model, or save the weights without that name"
            )
        return _numerics(stated.model_args, f"{statement.where}: {stated.name}")
    if asked is not None and asked.row == row:
        return _numerics(asked.model_args, f"given: --model {asked.name}")
    for statement, name in named:
        if name.row is None:
            raise NameMappingError(f"{statement.where} says {name.name}, which is none of the 29 architectures")
    match = candidate.match
    relative = _SCALED_RELATIVES.get((row, match.width_mult, match.depth_mult))
    if relative is None and (not match.is_exact or row in TF_ONLY):
        if row in TF_ONLY and match.is_exact:
            return _numerics({}, f"its names and shapes: {TIMM_PREFIX}{row} alone has them")
        note = f"no model of timm's has this width and depth: {_words({})} were assumed, as {PREFIX}{row} has them"
        return _numerics({}, "assumed: only this package scales networks of these names", notes=(note,))
    others = {f"{statement.where} says {name.name}" for statement, name in named}
    return _numerics({}, "not said", problem=_two_models(row, relative, others))


def _two_models(row: str, relative: str | None, others: Iterable[str]) -> str:
    """Return why nothing can be decided, and how the user can; `others` say that it is another model."""
    plain, own = relative or row, f"{PREFIX}{row}" if relative else f"{TIMM_PREFIX}{row}"
    said = first_few(others) or "Nothing says which was trained"
    ways = f"--model {own}" if relative else f"--model {plain} or --model {own}"
    return (
        f"two models have these names and shapes: timm's {plain} ({_words(PYTORCH)}) and {own} ({_words({})}"
        f"{', scaled' if relative else f', as {PREFIX}{row}'}). {said}. Say it: {ways}"
    )


def _words(args: Mapping[str, Any]) -> str:
    return "PyTorch's padding, epsilon 1e-5" if args else "TensorFlow's padding, epsilon 1e-3"


def _numerics(args: Mapping[str, Any], origin: str, **more: Any) -> Numerics:
    return Numerics(args, dict.fromkeys((*PYTORCH, *args), origin), **more)


@dataclass(frozen=True)
class SameSizes:
    """The sides in pixels, of height and width alike, that are `offset` more than a multiple of `step`."""

    step: int
    offset: int

    def __contains__(self, side: int) -> bool:
        return side % self.step == self.offset

    def __str__(self) -> str:
        more = f"{self.offset} more than " if self.offset else ""
        first = self.offset or self.step
        return f"{more}a multiple of {self.step} ({', '.join(str(first + n * self.step) for n in range(4, 8))}, …)"

    def nearest(self, side: int) -> int:
        """Return the nearest of them."""
        return max(0 if self.offset else 1, round((side - self.offset) / self.step)) * self.step + self.offset


def sizes_as_stated(candidate: Candidate, statements: Iterable[Statement]) -> SameSizes | None:
    """Return the even sides at which the code of a network pads as SAME does, or None where nobody says how it pads.

    The stem, and strided blocks that are not said to be padded alike on both sides, have one pixel less before than
    behind.
    """
    said = (one.symmetric_blocks for one in statements if candidate.dialect.name in one.dialects)
    symmetric = next((blocks for blocks in said if blocks is not None), None)
    if symmetric is None:
        return None
    blocks = (block for stage in candidate.arch.blocks(depth_mult=candidate.match.depth_mult) for block in stage)
    strided = [(number, block.stride) for number, block in enumerate(blocks) if block.stride > 1]
    step = 2 * prod(stride for _, stride in strided)
    for offset in range(0, step, 2):
        side, fits = (step + offset) // 2, True
        for number, stride in strided:
            fits &= bool(side % 2) == (number in symmetric)
            side = -(-side // stride)
        if fits:
            return SameSizes(step, offset)
    raise AssertionError(f"strides of {candidate.arch.name} other than 2")
