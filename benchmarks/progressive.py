"""Measures progressive learning on Fashion-MNIST against timm's sizes alone and a fixed size: `make bench-progressive`.

Every arm is timm's train.py on the same images and seeds, evaluated at the final size. "progressive" raises size and
strengths together; "sizes" is timm's own schedule at the final strengths; "fixed" is the final size at them. "longer"
is "progressive" over as many epochs as cost the FLOPs of the fixed size, "paper-longer" the same with the paper's
ratio of sizes, "paper-last-longer" that with the last stage twice as long as the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from tabulate import tabulate

from benchmarks.arms import ARMS, FIXED, SIZE, Arm
from benchmarks.calibration import score_calibrated
from benchmarks.fashion_mnist import unpack
from benchmarks.machine import machine
from benchmarks.measure import with_deviation
from timm_effnet_ext.train.axes import AXES, count_flops
from timm_effnet_ext.train.plot import save_plot
from timm_effnet_ext.train.runs import Run, read_run

_MODEL, _MODEL_KWARGS = "hucorz_efficientnetv2_b0", {"width_mult": 0.5, "depth_mult": 0.5}
_OPTIONS = (
    *("--model", _MODEL, "--model-kwargs", *(f"{name}={value}" for name, value in _MODEL_KWARGS.items())),
    *("--opt", "rmsproptf", "--opt-eps", "0.001", "--lr", "0.004", "--weight-decay", "0.00001", "--warmup-epochs", "1"),
    *("-b", "64", "-vb", "200", "--workers", "1", "--log-interval", "1000", "--val-interval", "2"),
    *("--scale", "0.5", "1.0", "--crop-pct", "1.0", "--channels-last", "--device", "cpu", "--num-classes", "10"),
    *("--img-size", f"{SIZE}"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all arms and seeds in turn; print and write what came out. A second run goes on where the first stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-py", default=os.environ.get("TIMM_TRAIN_PY"), help="timm's (default: TIMM_TRAIN_PY)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--epochs", type=int, default=12, help="of the fixed size (default: 12)")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("output", type=Path, help="folder of the runs, result.json and the pictures")
    args = parser.parse_args(argv)
    if not args.train_py:
        parser.error("where is train.py of timm's repository? Give --train-py or set TIMM_TRAIN_PY")
    images = unpack(args.output / "images", args.images, args.tests)
    arms = {name: ARMS[name] for name in dict.fromkeys([FIXED, *args.arms])}
    results: dict[str, list[Result]] = {name: [] for name in arms}
    for seed in range(args.seeds):  # arms in turn: what disturbs the machine disturbs all of them
        for name, arm in arms.items():
            folder = args.output / f"{name}-{seed}"
            train(args.train_py, arm, arm.epochs(args.epochs, _flops), images, folder, seed)
            results[name].append(measure(folder))
    report(args, results)
    return 0


def train(train_py: str, arm: Arm, epochs: int, images: Path, folder: Path, seed: int) -> None:
    """Run one arm with one seed, unless its log is complete."""
    log = folder.with_suffix(".log")
    if log.exists() and "--result" in log.read_text():
        return
    command = [sys.executable, "-m", "timm_effnet_ext", "run", *arm.launcher, train_py, *_OPTIONS, *arm.options]
    command += ["--epochs", f"{epochs}", "--seed", f"{seed}", "--data-dir", f"{images}"]
    command += ["--output", f"{folder.parent}", "--experiment", folder.name]
    began = _children_seconds()
    with log.open("w") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)
    (folder / _PROCESSOR_FILE).write_text(f"{_children_seconds() - began:.1f}\n")


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


@cache
def _flops(size: int) -> int:
    args = {"model": _MODEL, "model_kwargs": _MODEL_KWARGS, "num_classes": 10}
    return count_flops(args, [(size, size)])[size, size]


_PROCESSOR_FILE = "processor.txt"


class Result(NamedTuple):
    """What came of one run."""

    epochs: int
    flops: float  # of training alone
    seconds: float  # likewise
    processor: float  # seconds that its processes computed, evaluation included, and not those in which they waited
    top1: float  # percent, after the last epoch
    calibrated: float  # the same with BatchNorm statistics taken anew at the final size


def measure(folder: Path) -> Result:
    """Return what came of a run; its checkpoint is scored once."""
    path, run = folder / "calibrated.txt", read_run(folder)
    if not path.exists():
        path.write_text(f"{score_calibrated(folder):.2f}\n")
    seconds, flops = (AXES[axis].place(run)[-1] for axis in ("seconds", "flops"))
    processor, calibrated = (float(file.read_text()) for file in (folder / _PROCESSOR_FILE, path))
    return Result(run.epochs[-1] + 1, flops, seconds, processor, run.metrics["eval_top1"][-1], calibrated)


def report(args: argparse.Namespace, results: dict[str, list[Result]]) -> None:
    """Print the table, and write result.json and two pictures: over epochs those of equal epochs, over FLOPs all."""
    rows = [_row(name, runs, results[FIXED]) for name, runs in results.items()]
    headers = ["arm", "epochs", "top-1 %", "against fixed", "calibrated"]
    for cost in ("FLOPs", "training s", "processor s"):
        headers += [cost, "of fixed"]
    where = machine(torch.device("cpu"))
    print(tabulate(rows, headers, disable_numparse=True))
    print(f"{args.seeds} seeds, {args.images} images, {args.tests} tests; mean ± standard deviation over the seeds")
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    text = {
        "arms": {name: [run._asdict() for run in runs] for name, runs in results.items()},
        "machine": where,
        "settings": {name: str(value) for name, value in vars(args).items()},
    }
    (args.output / "result.json").write_text(json.dumps(text, indent=2) + "\n")
    as_long = [name for name, runs in results.items() if runs[0].epochs == args.epochs]
    save_plot([read_run(args.output / f"{name}-0") for name in as_long], args.output / "curves.png")
    means = [average([read_run(args.output / f"{name}-{seed}") for seed in range(args.seeds)]) for name in results]
    save_plot(means, args.output / "flops.png", "flops")


def _row(name: str, runs: Sequence[Result], fixed: Sequence[Result]) -> list[str]:
    pairs = list(zip(runs, fixed, strict=True))
    cells = [
        name,
        f"{runs[0].epochs}",
        with_deviation([run.top1 for run in runs], 2),
        with_deviation([run.top1 - other.top1 for run, other in pairs], 2),
        with_deviation([run.calibrated for run in runs], 2),
    ]
    for cost in ("flops", "seconds", "processor"):
        cells.append(f"{median(getattr(run, cost) for run in runs):.3g}")
        cells.append(f"{median(getattr(run, cost) / getattr(other, cost) for run, other in pairs):.2f}")
    return cells


def average(runs: Sequence[Run]) -> Run:
    """Return the first of the runs of an arm with the mean of their metrics."""
    first = runs[0]
    metrics: dict[str, Any] = {
        column: tuple(map(mean, zip(*(run.metrics[column] for run in runs), strict=True))) for column in first.metrics
    }
    return replace(first, name=first.name.rpartition("-")[0], metrics=metrics)


if __name__ == "__main__":
    raise SystemExit(main())
