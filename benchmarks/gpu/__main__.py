"""`make gpu`: everything that waits for a GPU, in the ten minutes for which one is lent.

Lean training's laws come first, in float64, float32, bfloat16 and float16, in both memory formats, under autocast and
GradScaler, as a CUDA graph, across streams and beside torch.compile. Then time and peak memory of a training step, the
images a second of progressive learning, and inference. Whatever is found is in the files at once, a failure costs its
item alone, and what no longer fits into --minutes is left out and named.

To a machine without a network goes this repository with the wheels that are not there beside torch and torchvision:
`make gpu-wheels GPU_PYTHON=3.12` puts them into build/wheels, from where `make gpu` installs them. By hand that is

    python3 -m pip install --no-index --no-deps --target build/carried build/wheels/*.whl
    PYTHONPATH=build/carried python3 -m benchmarks.gpu

Where there is no torch either, `python -m benchmarks.gpu.wheels build/wheels --torch` adds it, for its own Python.

It returns 1 where a law does not hold or something that was begun did not end. `--device cpu --quick` tries the script
without a GPU, with OMP_NUM_THREADS=1 in minutes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu.conduct import FORKED, SPAWNED, Unfinished, conduct, run_item
from benchmarks.gpu.device import check, describe
from benchmarks.gpu.items import ITEMS, PARTS
from benchmarks.gpu.report import Report
from benchmarks.parts import Options
from timm_effnet_ext.errors import EffNetExtError

_PATIENCE = 6  # times what an item should take, and it is ended: a kernel that hangs must not take all minutes
_START = 60  # seconds that a first process may take: a cold disk, a GPU just woken


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 where a law fails, or after one line where nothing can be run."""
    text, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=text, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N or cpu")
    parser.add_argument("--minutes", type=float, default=9, help="until the last item ends (9: ten, less the start)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small models and images, three rounds")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu"), metavar="FOLDER",
                        help="gets gpu.json and gpu.png (default: build/gpu)")  # fmt: skip
    args = parser.parse_args(argv)
    try:
        return run(args)
    except EffNetExtError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    """Do the items, each as long as there is time for it.

    Raises:
        EffNetExtError: There is no such device.
    """
    end = time.monotonic() + args.minutes * 60
    if not re.fullmatch(r"cpu|cuda(:\d+)?", args.device):
        raise EffNetExtError(f"--device {args.device}: expected cuda, cuda:N or cpu")
    options = Options(torch.device(args.device), args.quick)
    check(options.device)
    args.output.mkdir(parents=True, exist_ok=True)
    report = Report(args.output)
    method = _begin(report, options)
    for name in _chosen(args.only):
        report.end(name, _do(name, options, report, end - time.monotonic(), method))
    return _sum_up(report)


def _begin(report: Report, options: Options) -> str:
    """Put the machine into the report; return how processes are started here.

    A library that touches the GPU when it is imported, as another version might, leaves forked processes without one.
    """
    for method in (FORKED, SPAWNED):
        try:
            (report.machine,) = conduct(describe, options.device, seconds=_START, method=method)
            break
        except (Unfinished, OSError) as err:
            print(f"{method}: {err}", file=sys.stderr)
    else:
        raise EffNetExtError(f"--device {options.device}: no process can use it, see above")
    print(*(f"{name} {value}" for name, value in report.machine.items()), sep=", ", flush=True)
    if report.lacks_picture:
        print(report.lacks_picture, file=sys.stderr)
    return method


def _chosen(parts: Iterable[str]) -> list[str]:
    return [name for name, item in ITEMS.items() if item.part in parts]


def _do(name: str, options: Options, report: Report, left: float, method: str) -> str:
    """Do one item in the seconds that are left, and return how it ended."""
    item = ITEMS[name]
    if item.is_compiled and options.device.type == "cpu":
        return "skipped: inductor takes minutes on a CPU"
    if item.seconds > left:
        return f"skipped: takes about {item.seconds} s, {max(left, 0):.0f} s are left"
    patience = _PATIENCE * item.seconds if options.device.type == "cuda" else left
    try:
        for found in conduct(run_item, name, options, seconds=min(left, patience), method=method):
            report.add(found)
    except Unfinished as err:
        return f"failed: {err}"
    return "done"


def _sum_up(report: Report) -> int:
    print(report.folder / "gpu.json", *([] if report.lacks_picture else [report.folder / "gpu.png"]), sep="\n")
    skipped = sum(outcome.startswith("skipped") for outcome in report.outcomes.values())
    done = sum(outcome == "done" for outcome in report.outcomes.values())
    print(f"{done} done, {skipped} skipped, failed: {', '.join(report.failed) or 'none'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
