"""Reads what train.py, and our launcher with it, left in the output folder of a run."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from timm_effnet_ext.errors import EffNetExtError

SUMMARY_FILE, ARGS_FILE = "summary.csv", "args.yaml"  # train.py's
STAGES_FILE = "progressive.csv"  # ours, a row an epoch
COST_FILE = "cost.csv"  # ours, a row for each image size of an epoch


class Span(NamedTuple):
    """The epochs that trained on images of one size, both ends included."""

    first: int
    last: int
    size: int


class Cost(NamedTuple):
    """What training on the images of one size took in one epoch, evaluation left out."""

    epoch: int
    height: int
    width: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """A run of train.py: its metrics over the epochs that it summarised, and its stages if it was progressive."""

    name: str
    model: str
    epochs: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]]  # column of summary.csv -> one value an epoch
    spans: tuple[Span, ...] = ()
    costs: tuple[Cost, ...] = ()  # none where the launcher did not run it
    args: Mapping[str, Any] = field(default_factory=dict)  # train.py's own

    @property
    def best(self) -> int | None:
        """Position of the epoch with the highest top-1, the first of equals; None without evaluation."""
        top1 = self.metrics.get("eval_top1")
        return None if top1 is None else top1.index(max(top1))


def read_run(folder: Path) -> Run:
    """Return the run in `folder`.

    Raises:
        EffNetExtError: A file of it is missing or damaged.
    """
    rows = _rows(folder / SUMMARY_FILE)
    epochs = tuple(sorted(rows))
    columns = [name for name in rows[epochs[0]] if name != "epoch"]
    metrics = {name: tuple(rows[epoch][name] for epoch in epochs) for name in columns}
    args = _args(folder / ARGS_FILE)
    model = str(args.get("model", "unknown model"))
    stages, costs = folder / STAGES_FILE, folder / COST_FILE
    return Run(
        folder.resolve().name,
        model,
        epochs,
        metrics,
        spans=_spans(stages) if stages.exists() else (),
        costs=read_costs(costs) if costs.exists() else (),
        args=args,
    )


def _rows(path: Path) -> dict[int, dict[str, float]]:
    """Return the metrics by epoch. A resumed run repeats the header and epochs: what was written last counts."""
    rows: dict[int, dict[str, float]] = {}
    for where, row in csv_rows(path):
        if row.get("epoch") == "epoch":
            continue
        if "epoch" not in row or None in row:
            raise EffNetExtError(f"{where}: not a row of train.py's summary. Is the file damaged?")
        numbers = {name: _number(value, f"{where}: {name}") for name, value in row.items()}
        rows[whole_number(row["epoch"], f"{where}: epoch")] = numbers
    if not rows:
        raise EffNetExtError(f"{path}: no epochs. Has the run finished one?")
    return rows


def _spans(path: Path) -> tuple[Span, ...]:
    spans: list[Span] = []
    for where, row in csv_rows(path):
        epoch, size = (whole_number(row.get(name), f"{where}: {name}") for name in ("epoch", "size"))
        if spans and spans[-1].size == size:
            spans[-1] = spans[-1]._replace(last=epoch)
        else:
            spans.append(Span(epoch, epoch, size))
    return tuple(spans)


def read_costs(path: Path) -> tuple[Cost, ...]:
    """Return what the epochs of a run cost.

    Raises:
        EffNetExtError: There is no such file, or it is damaged.
    """
    costs = []
    for where, row in csv_rows(path):
        epoch, height, width, images = (
            whole_number(row.get(name), f"{where}: {name}") for name in ("epoch", "height", "width", "images")
        )
        seconds = _number(row.get("seconds"), f"{where}: seconds")
        if min(epoch, height - 1, width - 1, images - 1, seconds) < 0 or not math.isfinite(seconds):
            raise EffNetExtError(f"{where}: {','.join(row.values())} is not what an epoch cost. Is the file damaged?")
        costs.append(Cost(epoch, height, width, images, seconds))
    return tuple(costs)


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every row of a CSV with the words for where it is.

    Raises:
        EffNetExtError: There is no such file, or it is not a CSV.
    """
    _check_there(path)
    try:
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                yield f"{path} line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as err:
        raise EffNetExtError(f"{path}: not CSV ({err}). Is the file damaged?") from err


def _args(path: Path) -> dict[str, Any]:
    _check_there(path)
    args = read_yaml(path)
    if not isinstance(args, dict):
        raise EffNetExtError(f"{path}: expected a mapping, found {type(args).__name__}. Is the file damaged?")
    return args


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        EffNetExtError: It is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError) as err:  # ValueError: a date is none, or bytes are no text
        raise EffNetExtError(f"{path}: not YAML ({err}). Is the file damaged?") from err


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise EffNetExtError(f"{path}: no such file. Is {path.parent} the output folder of a run of train.py?")


def _number(text: str | None, where: str) -> float:
    try:
        return float(text or "")
    except ValueError as err:
        raise EffNetExtError(f"{where}: {text!r} is not a number. Is the file damaged?") from err


def whole_number(text: str | None, where: str) -> int:
    """Return the number in a cell; `where` is said of one that has none.

    Raises:
        EffNetExtError: It is not a whole number.
    """
    try:
        return int(text or "")
    except ValueError as err:
        raise EffNetExtError(f"{where}: {text!r} is not a whole number. Is the file damaged?") from err
