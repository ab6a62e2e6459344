"""Measures progressive learning on Fashion-MNIST against timm's sizes alone and a fixed size: `make bench-progressive`.

Every arm is timm's train.py on the same images, epochs and seeds, evaluated at the final size. "progressive" raises
size and strengths together; "sizes" is timm's own schedule at the final strengths; "fixed" is the final size at them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev

import timm
import torch
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fashion_mnist import unpack
from timm_effnet_ext.train.plot import save_plot
from timm_effnet_ext.train.progressive.plan import Plan, parse
from timm_effnet_ext.train.runs import ARGS_FILE, read_run, read_yaml

_EPOCH_END = re.compile(r"^Train: \d+ \[ *\d+/(\d+) \(100%\)\].*\((\d+\.\d+)s,", re.MULTILINE)
"""What train.py logs at the end of an epoch: its steps and their mean time in seconds."""


def arms(plan: Plan, spec: str) -> dict[str, tuple[list[str], list[str]]]:
    """Return the launcher's and train.py's own arguments of each arm."""
    last = plan.stages[-1]
    strengths = ["--aa", f"rand-n2-m{last.randaug}-mmax{last.randaug}"] if last.randaug is not None else []
    strengths += ["--mixup", f"{last.mixup}"] if last.mixup else []
    strengths += ["--drop", f"{last.dropout}"] if last.dropout else []
    sizes = ["--train-img-sizes", *map(str, plan.sizes), "--train-size-schedule", "progressive"]
    return {
        "progressive": (["--progressive", spec], []),
        "sizes": ([], [*sizes, *strengths]),
        "fixed": ([], strengths),
    }


def train(args: argparse.Namespace, images: Path, name: str, launcher: Sequence[str], own: Sequence[str]) -> float:
    """Run one arm with one seed, unless its log is complete, and return its training time in seconds."""
    log = args.output / f"{name}.log"
    if not log.exists() or "--result" not in log.read_text():
        command = [sys.executable, "-m", "timm_effnet_ext", "run", *launcher, args.train_py, *own, *args.options]
        command += ["--data-dir", str(images), "--num-classes", "10", "--epochs", str(args.epochs), "--device", "cpu"]
        command += ["--output", str(args.output), "--experiment", name]
        with log.open("w") as file:
            subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT, env={**os.environ})
    return sum(int(steps) * float(seconds) for steps, seconds in _EPOCH_END.findall(log.read_text()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run all arms and seeds in turn; print and write what came out. A second run goes on where the first stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-py", default=os.environ.get("TIMM_TRAIN_PY"), help="timm's (default: TIMM_TRAIN_PY)")
    parser.add_argument("--progressive", default="sizes=60,72,84,96 randaug=5:10 mixup=0:0.1 dropout=0.1:0.2")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("output", type=Path, help="folder of the runs, result.json and curves.png")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTION", help="of train.py: model, optimiser, …")
    args = parser.parse_args(argv)
    if not args.train_py:
        parser.error("where is train.py of timm's repository? Give --train-py or set TIMM_TRAIN_PY")
    plan = parse(args.progressive).plan(None)
    args.options = [*_OPTIONS, *args.options, "--img-size", str(plan.sizes[-1])]
    images = unpack(args.output / "images", args.images, args.tests)
    arguments = arms(plan, args.progressive)
    seconds: dict[str, list[float]] = {arm: [] for arm in arguments}
    for seed in range(args.seeds):  # arms in turn: what disturbs the machine disturbs all of them
        for arm, (launcher, own) in arguments.items():
            own = [*own, "--seed", str(seed)]
            seconds[arm].append(train(args, images, f"{arm}-{seed}", launcher, own))
    report(args, plan, seconds)
    return 0


_OPTIONS = (
    *("--model", "hucorz_efficientnetv2_b0", "--model-kwargs", "width_mult=0.5", "depth_mult=0.5"),
    *("--opt", "rmsproptf", "--opt-eps", "0.001", "--lr", "0.004", "--weight-decay", "0.00001", "--warmup-epochs", "1"),
    *("-b", "64", "-vb", "200", "--workers", "1", "--log-interval", "1000", "--val-interval", "2"),
    *("--scale", "0.5", "1.0", "--crop-pct", "1.0", "--channels-last"),
)


def report(args: argparse.Namespace, plan: Plan, seconds: dict[str, list[float]]) -> None:
    """Print the table, and write result.json and curves.png."""
    result = {
        arm: {
            "seconds": times,
            "top1": [read_run(args.output / f"{arm}-{seed}").metrics["eval_top1"][-1] for seed in range(args.seeds)],
        }
        for arm, times in seconds.items()
    }
    flops = mean(_flops(args.output / "fixed-0" / ARGS_FILE, plan.sizes))
    fixed = min(result["fixed"]["seconds"])
    rows = [
        [arm, *_extent(row["seconds"]), f"{min(row['seconds']) / fixed:.2f}", _spread(row["top1"])]
        for arm, row in result.items()
    ]
    machine = f"{platform.processor() or platform.machine()}, torch {torch.__version__}, timm {timm.__version__}"
    print(tabulate(rows, ["arm", "training s, least", "median", "of fixed", "top-1 %"], disable_numparse=True))
    print(f"{args.seeds} seeds, {args.epochs} epochs of {args.images} images; mean FLOPs of the sizes: {flops:.2f}")
    print(machine)
    settings = {name: str(value) for name, value in vars(args).items()}
    text = json.dumps({"arms": result, "flops": flops, "machine": machine, "settings": settings}, indent=2)
    (args.output / "result.json").write_text(text + "\n")
    save_plot([read_run(args.output / f"{arm}-0") for arm in result], args.output / "curves.png")


def _flops(arguments: Path, sizes: Sequence[int]) -> list[float]:
    """Return the FLOPs of the run's model at each size, of those at the last: feature maps have whole pixels."""
    run = read_yaml(arguments)
    model = timm.create_model(run["model"], num_classes=10, **run["model_kwargs"]).eval()
    counts = []
    for size in sizes:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, size, size))
        counts.append(counter.get_total_flops())
    return [count / counts[-1] for count in counts]


def _extent(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{min(seconds):.0f}", f"{median(seconds):.0f}"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
