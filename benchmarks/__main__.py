"""`python -m benchmarks`: our models beside timm's, torchvision's and other engines, each figure with its bar.

That is on the CPU; `benchmarks.gpu` is what a GPU is tried and measured with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.bars import check_matplotlib, save_bars
from benchmarks.machine import left_out, machine
from benchmarks.parts import PARTS, Options
from benchmarks.tables import print_comparison, record
from timm_effnet_ext.cli.output import print_json
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 after one line where that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="B0 only, three rounds: shows that it runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bench"), metavar="FOLDER",
                        help="gets bench.json and bench.png (default: build/bench)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON too, instead of tables")
    try:
        run(parser.parse_args(argv))
    except EffNetExtError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Run the parts, print each table as soon as it is there, and write both files.

    Raises:
        EffNetExtError: There is no matplotlib.
    """
    device = torch.device("cpu")
    check_matplotlib()
    keep_freed_memory()  # for every side alike, as our own commands do
    args.output.mkdir(parents=True, exist_ok=True)
    found = machine(device)
    caption = ", ".join(f"{name} {value}" for name, value in found.items())
    for line in (caption, *left_out()):
        print(line, file=sys.stderr)
    tables = []
    for part in args.only:
        for table in PARTS[part](Options(device, args.quick)):
            tables.append(table)
            if not args.json:
                print_comparison(table)
    result = {"machine": found, "left_out": left_out(), "tables": [record(table) for table in tables]}
    with new_file(args.output / "bench.json") as part:
        part.write_text(json.dumps(result, indent=2))
    save_bars(tables, caption, args.output / "bench.png")
    if args.json:
        print_json(result)
    else:
        print(args.output / "bench.json", args.output / "bench.png", sep="\n")


if __name__ == "__main__":
    raise SystemExit(main())
