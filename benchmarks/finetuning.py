"""Measures linear probe, partial and full fine-tuning of ImageNet weights on photographs: `make bench-finetuning`.

Every arm is a recipe of ours in timm's train.py, on the same photographs, a quarter of them held out, in each fold
another. Time and memory are those of training steps, lean and not, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
import yaml
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.bars import check_matplotlib
from benchmarks.machine import machine
from benchmarks.measure import Spread, alternate, kept_bytes, with_deviation
from benchmarks.panels import save_panels
from benchmarks.solar_cells import CLASSES, unpack
from timm_effnet_ext.train.recipe import read_text
from timm_effnet_ext.train.runs import read_run

PARTS = 4
"""Of the photographs; one of them is held out."""

_MIB, _CPU = 2**20, torch.device("cpu")
Measured = dict[tuple[str, bool], tuple[Spread, float, int]]
"""Of an arm, lean or not: milliseconds of a step, MiB that an image leaves behind, and parameters that are trained."""


class Arm(NamedTuple):
    """A recipe, what is frozen beside what it freezes itself, and whether it begins from ImageNet weights."""

    recipe: str
    freeze: str = ""
    pretrained: bool = True


class Cost(NamedTuple):
    """What the training steps of a run take, and an image leaves behind for backward."""

    seconds: float
    mib: float


class Result(NamedTuple):
    """What came of one arm."""

    top1: list[list[float]]  # of each fold, over its epochs
    trained: int  # parameters
    plain: Cost
    lean: Cost

    @property
    def final(self) -> list[float]:
        """Top-1 of each fold after the last epoch: the best one would have been chosen by the validation."""
        return [values[-1] for values in self.top1]


ARMS = {
    "linear probe": Arm("linear-probe-b0"),
    "partial": Arm("finetune-b0", freeze="stem,blocks.0-3"),
    "full": Arm("finetune-b0"),
    "from scratch": Arm("finetune-b0", pretrained=False),
}
_OPTIONS = (
    *("--num-classes", str(len(CLASSES)), "--device", "cpu", "--workers", "1", "-vb", "128"),
    *("--scale", "0.5", "1.0", "--crop-pct", "1.0", "--log-interval", "1000"),  # a defect is not to be cropped away
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all arms and folds in turn; print and write what came out. A second run goes on where the first stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-py", default=os.environ.get("TIMM_TRAIN_PY"), help="timm's (default: TIMM_TRAIN_PY)")
    parser.add_argument("--model", default="local-dir:demo/lite0", help="pretrained (default: what `make demo` wrote)")
    parser.add_argument("--img-size", type=int, default=96)
    parser.add_argument("--folds", type=int, default=3, help="runs of each arm, up to 4, each without another quarter")
    parser.add_argument("--rounds", type=int, default=12, help="of training steps that are timed (default: 12)")
    parser.add_argument("output", type=Path, help="folder of the runs, finetuning.json and finetuning.png")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTION", help="of train.py, for every arm")
    args = parser.parse_args(argv)
    if not args.train_py:
        parser.error("where is train.py of timm's repository? Give --train-py or set TIMM_TRAIN_PY")
    check_matplotlib()
    for fold in range(args.folds):  # arms in turn: what disturbs the machine disturbs all of them
        images = unpack(args.output / "images" / f"{fold}-of-{PARTS}", fold, PARTS)
        for name in ARMS:
            train(args, images, name, fold)
    report(args, summarise(args, measure(args)))
    return 0


def settings(args: argparse.Namespace, arm: Arm) -> dict[str, Any]:
    """Return the arm's recipe for this model and size."""
    recipe = yaml.safe_load(read_text(arm.recipe))
    kwargs = {**recipe.get("model_kwargs", {}), **({"freeze": arm.freeze} if arm.freeze else {})}
    own = {"model": args.model, "pretrained": arm.pretrained, "img_size": args.img_size, "model_kwargs": kwargs}
    return {**recipe, **own}


def train(args: argparse.Namespace, images: Path, name: str, fold: int) -> None:
    """Train one arm on one fold, unless its log is complete."""
    run = run_name(name, fold)
    log, recipe = args.output / f"{run}.log", args.output / f"{run}.yaml"
    if log.exists() and "--result" in log.read_text():
        return
    recipe.write_text(yaml.safe_dump(settings(args, ARMS[name])))
    command = [sys.executable, "-m", "timm_effnet_ext", "run", args.train_py, "-c", str(recipe), *_OPTIONS]
    command += ["--data-dir", str(images), "--seed", str(fold), "--output", str(args.output), "--experiment", run]
    with log.open("w") as file:
        subprocess.run([*command, *args.options], check=True, stdout=file, stderr=subprocess.STDOUT)


def run_name(name: str, fold: int) -> str:
    """Return what the folder of a run is called."""
    return f"{name.replace(' ', '-')}-{fold}"


def measure(args: argparse.Namespace) -> Measured:
    """Return what a training step of each arm takes, lean and not."""
    found, steps = {}, {}
    for name, arm in ARMS.items():
        for lean in (False, True):
            given = settings(args, arm)
            kwargs = {**given["model_kwargs"], "lean": lean}
            model = timm.create_model(args.model, num_classes=len(CLASSES), **kwargs).train()
            images = torch.randn(given["batch_size"], 3, args.img_size, args.img_size)
            kept = kept_bytes(model, lambda model=model, images=images: model(images)) / len(images) / _MIB  # type: ignore[misc]
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            found[name, lean] = kept, trained
            steps[f"{name}, lean={lean}"] = _step(model, images)
    taken = alternate(steps, args.rounds, _CPU)
    return {
        (name, lean): (Spread.of_rounds(taken[f"{name}, lean={lean}"]), *rest) for (name, lean), rest in found.items()
    }


def _step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return a function that trains on the images once, as the recipes do."""
    labels = torch.arange(len(images)) % len(CLASSES)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def summarise(args: argparse.Namespace, measured: Measured) -> dict[str, Result]:
    """Return the results of the arms: their runs, and steps of a run times what a step takes."""
    results = {}
    for name, arm in ARMS.items():
        runs = [read_run(args.output / run_name(name, fold)) for fold in range(args.folds)]
        images = sum(1 for _ in (args.output / "images" / f"0-of-{PARTS}" / "train").glob("*/*"))
        steps = len(runs[0].epochs) * (images // settings(args, arm)["batch_size"])  # timm drops the last, short batch
        costs = [Cost(steps * measured[name, lean][0].min / 1e3, measured[name, lean][1]) for lean in (False, True)]
        results[name] = Result([list(run.metrics["eval_top1"]) for run in runs], measured[name, False][2], *costs)
    return results


def report(args: argparse.Namespace, results: dict[str, Result]) -> None:
    """Print the table, and write finetuning.json and finetuning.png."""
    found = machine(_CPU)
    rows = [
        [name, f"{r.trained:,}", with_deviation(r.final, 1)]
        + [f"{cost.seconds:.0f}" for cost in (r.plain, r.lean)]
        + [f"{cost.mib:.2g}" for cost in (r.plain, r.lean)]
        for name, r in results.items()
    ]
    head = ["", "parameters", "top-1 %", "training s", "lean", "kept, MiB an image", "lean"]
    print(tabulate(rows, head, disable_numparse=True))
    caption = ", ".join(f"{name} {value}" for name, value in found.items())
    print(caption)
    arms = {name: {**r._asdict(), "plain": r.plain._asdict(), "lean": r.lean._asdict()} for name, r in results.items()}
    given = {name: str(value) for name, value in vars(args).items()}
    text = json.dumps({"arms": arms, "machine": found, "settings": given}, indent=2)
    (args.output / "finetuning.json").write_text(text + "\n")
    save_panels(results, caption, args.output / "finetuning.png")


if __name__ == "__main__":
    raise SystemExit(main())
