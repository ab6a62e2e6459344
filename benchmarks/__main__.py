"""`python -m benchmarks`: our models beside timm's, torchvision's and other engines, each figure with its bar."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.bars import check_matplotlib, save_bars
from benchmarks.machine import left_out, machine
from benchmarks.parts import PARTS, Options
from timm_effnet_ext.cli.output import print_json, print_table
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 after one line where that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
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
        EffNetExtError: There is no such device, or no matplotlib.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
        raise EffNetExtError(f"--device {args.device}: expected cpu, cuda or cuda:N")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EffNetExtError(f"--device {args.device}: this PyTorch sees no GPU")
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
                _print(table)
    result = {"machine": found, "left_out": left_out(), "tables": [_record(table) for table in tables]}
    with new_file(args.output / "bench.json") as part:
        part.write_text(json.dumps(result, indent=2))
    save_bars(tables, caption, args.output / "bench.png")
    if args.json:
        print_json(result)
    else:
        print(args.output / "bench.json", args.output / "bench.png", sep="\n")


def _print(table: Any) -> None:
    print(f"\n{table.title} ({table.unit})")
    base = table.values.get("timm")
    rows = [
        (name, f"{s.min:.4g}", f"{s.median:.4g}", f"{s.min / base.min:.3f}x" if base else "", s.rounds)
        for name, s in table.values.items()
    ]
    print_table(rows, ["", "min", "median", "of timm", "rounds"])
    for bar in table.bars:
        ratio = table.ratio(bar)
        names = " or ".join(f"{mine} / {theirs}" for mine, theirs in bar.pairs)
        print(f"{'holds' if ratio <= bar.limit else 'MISSED'}: {names} {ratio:.3f} (bar {bar.limit:.3f})")


def _record(table: Any) -> dict[str, Any]:
    bars = [
        {"pairs": bar.pairs, "limit": bar.limit, "ratio": table.ratio(bar), "holds": table.ratio(bar) <= bar.limit}
        for bar in table.bars
    ]
    values = {name: spread._asdict() for name, spread in table.values.items()}
    return {"part": table.name, "title": table.title, "unit": table.unit, "values": values, "bars": bars}


if __name__ == "__main__":
    raise SystemExit(main())
