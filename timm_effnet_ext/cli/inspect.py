"""`inspect`: prints what a checkpoint is, without converting it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from timm_effnet_ext.cli.arguments import add_source
from timm_effnet_ext.cli.output import hide_bars_of_the_hub, print_facts, print_json
from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry
from timm_effnet_ext.convert.config import Config
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.convert.inspection import Inspection, inspect_source
from timm_effnet_ext.files.hub_format import PREPROCESSING
from timm_effnet_ext.files.hub_name import is_hub_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to look at, and how to print it."""
    add_source(parser)
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--tensors", action="store_true", help="list every tensor with its type and shape")


def run(args: argparse.Namespace) -> None:
    """Print what the source is."""
    if is_hub_name(args.source):
        hide_bars_of_the_hub()
    found = inspect_source(args.source)
    if args.json:
        return print_json(found.to_json(), indent=None)
    print_facts(_facts(found))
    if args.tensors:
        from tabulate import tabulate  # slow to import

        print()
        print(tabulate(_tensors(found), headers=("tensor", "is", "dtype", "shape"), tablefmt="simple"))


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    checkpoint, variables = found.checkpoint, found.checkpoint.variables
    size = sum(found.files.values())
    yield "source", found.name
    yield "format", f"{checkpoint.framework}, {checkpoint.format}, {len(found.files)} files, {size / 1e6:,.1f} MB"
    if found.candidates:
        yield from _reading(found)
    else:
        yield "architecture", f"unknown: {found.problem}"
    yield "EMA weights", f"yes, of {len(variables.ema)} variables" if variables.ema else "no"
    counts = f"{len(variables.slots)} optimizer slots, {len(variables.counters)} counters"
    yield "variables", f"{len(variables.model)}, and {counts}"
    yield "step", "not said" if found.step is None else str(found.step)
    for note in checkpoint.notes:
        yield "note", note


def _reading(found: Inspection) -> Iterator[tuple[str, str]]:
    """Yield what the likeliest reading of the file is, and what a conversion would write of it."""
    first, *others = found.candidates
    width, depth = first.match.width_mult, first.match.depth_mult
    scale = "" if first.match.is_exact else f" x{width:g} x{depth:g}"
    yield "architecture", f"{first.match.arch_name}{scale}: {first.reason}"
    yield "dialect", f"{first.dialect.name}{_under(first)}"
    if others:
        yield "or", "; ".join(map(_other, others))
    if found.problem:
        yield "to be said", found.problem
    if found.classes:
        yield "outputs", found.classes.text
        for i, name in enumerate((found.classes.named.names or ())[:20]):
            yield f"class {i}", name or "–"
    yield from _settings(found.config)


def _other(candidate: Candidate) -> str:
    """Return another reading of the file in short."""
    match = candidate.match
    return f"{match.arch_name} (width {match.width_mult:g}, depth {match.depth_mult:g}){_under(candidate)}"


def _under(candidate: Candidate) -> str:
    return f" under {candidate.prefix!r}" if candidate.prefix else ""


def _settings(config: Config) -> Iterator[tuple[str, str]]:
    """Yield how the model computes and how images are prepared, each with who says so."""
    for part, names in (("model_args", None), ("pretrained_cfg", PREPROCESSING)):
        for name, value in config.values.get(part, {}).items():
            if names is None or name in names:
                shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else repr(value)
                yield name, f"{shown} ({config.origins[f'{part}.{name}']})"


def _tensors(found: Inspection) -> Iterator[tuple[str, str, str, str]]:
    variables = found.checkpoint.variables
    kinds: dict[str, Mapping[str, TensorEntry]] = {
        "variable": variables.model, "EMA": variables.ema,
        "optimizer slot": variables.slots, "counter": variables.counters,
    }  # fmt: skip
    for kind, table in kinds.items():
        for name, entry in sorted(table.items()):
            yield name, kind, entry.dtype, " × ".join(map(str, entry.shape)) or "scalar"
