"""`inspect`: prints what a checkpoint is, without converting it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from timm_effnet_ext.cli.output import print_facts, print_json
from timm_effnet_ext.convert.inspection import Inspection, Reading, inspect_source
from timm_effnet_ext.hub_format import PREPROCESSING
from timm_effnet_ext.layout import Shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to look at, and how to print it."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="checkpoint file, prefix, folder or archive")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--tensors", action="store_true", help="list every tensor with its type and shape")


def run(args: argparse.Namespace) -> None:
    """Print what the source is."""
    found = inspect_source(args.source)
    if args.json:
        return print_json(found.to_json(), indent=None)
    print_facts(_facts(found))
    if args.tensors:
        from tabulate import tabulate  # slow to import

        print()
        print(tabulate(_tensors(found), headers=("tensor", "is", "dtype", "shape"), tablefmt="simple"))


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    size = sum(found.files.values())
    yield "source", found.path
    yield "format", f"{found.framework}, {found.format}, {len(found.files)} files, {size / 1e6:,.1f} MB"
    if found.readings:
        first, *others = found.readings
        scale = "" if first.width_mult == first.depth_mult == 1 else f" x{first.width_mult:g} x{first.depth_mult:g}"
        yield "architecture", f"{first.architecture}{scale}: {first.reason}"
        yield "dialect", f"{first.dialect}{f' under {first.prefix!r}' if first.prefix else ''}"
        if others:
            yield "or", "; ".join(map(_other, others))
        if found.problem:
            yield "to be said", found.problem
        if found.outputs:
            yield "outputs", found.outputs
        if found.label_names:
            yield "classes", ", ".join(f"{i}: {name or '–'}" for i, name in enumerate(found.label_names[:20]))
        yield from _settings(found)
    else:
        yield "architecture", f"unknown: {found.problem}"
    yield "EMA weights", f"yes, of {len(found.ema)} variables" if found.has_ema else "no"
    yield "variables", f"{len(found.variables)}, and {len(found.slots)} optimizer slots, {len(found.counters)} counters"
    yield "step", "not said" if found.step is None else str(found.step)
    for note in found.notes:
        yield "note", note


def _other(reading: Reading) -> str:
    """Return another reading of the file in short."""
    under = f" under {reading.prefix!r}" if reading.prefix else ""
    return f"{reading.architecture} (width {reading.width_mult:g}, depth {reading.depth_mult:g}){under}"


def _settings(found: Inspection) -> Iterator[tuple[str, str]]:
    """Yield how the model computes and how images are prepared, each with who says so."""
    for part, names in (("model_args", None), ("pretrained_cfg", PREPROCESSING)):
        for name, value in found.config.get(part, {}).items():
            if names is None or name in names:
                shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else repr(value)
                yield name, f"{shown} ({found.origins[f'{part}.{name}']})"


def _tensors(found: Inspection) -> Iterator[tuple[str, str, str, str]]:
    kinds: dict[str, Mapping[str, tuple[str, Shape]]] = {
        "variable": found.variables, "EMA": found.ema, "optimizer slot": found.slots, "counter": found.counters
    }  # fmt: skip
    for kind, table in kinds.items():
        for name, (dtype, shape) in sorted(table.items()):
            yield name, kind, dtype, " × ".join(map(str, shape)) or "scalar"
