"""What is compared, on which work, and the bars that our side is held to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import save_file

from benchmarks.contenders import Work, predictors, train_step, trainers
from benchmarks.measure import Spread, alternate, kept_bytes, numbers_of
from benchmarks.tables import Bar, Table
from timm_effnet_ext.arch.rows import PREFIX, TIMM_PREFIX

_MIB = 2**20


class Options(NamedTuple):
    """How much is run, and where."""

    device: torch.device
    quick: bool = False

    @property
    def rounds(self) -> int:
        """Rounds of each comparison."""
        return 3 if self.quick else 12


class _Training(NamedTuple):
    arch: str
    size: int
    batch: int
    bytes_limit: float


_TRAININGS = (
    _Training("efficientnet_b0", 224, 8, 0.33),
    _Training("efficientnetv2_s", 300, 4, 0.36),
    _Training("efficientnet_cc_b0_8e", 224, 8, 0.33),
    _Training("efficientnet_b4", 380, 2, 0.34),
)
_TIMED = ("efficientnet_b0", "efficientnetv2_s", "efficientnet_cc_b0_8e")  # B4 differs from B0 in width and depth only
# Inductor searches the fusions of V2-S for more than 25 minutes and 15 GB (torch 2.14.1).
_COMPILED = ("efficientnet_b0",)
_LEAN, _LEAN_LAST = ("lean", "timm"), ("lean channels_last", "timm channels_last")
_STEP_BARS = (
    Bar(1.05, (_LEAN,)),
    Bar(1.05, (_LEAN_LAST,)),
    Bar(1.0, (_LEAN, _LEAN_LAST)),
    Bar(0.95, (("ours", "timm"),)),
    Bar(1.0, (("ours channels_last", "timm channels_last"),)),
    Bar(0.4, (("ours linear_probe", "ours"),)),
)
_ONNX_BAR = Bar(1.0, (("ours in ONNX Runtime", "timm in ONNX Runtime"),))
_INFERENCES = {
    ("efficientnet_b0", 224, 8): (
        Bar(1 / 1.8, (("optimized", "timm"),)),
        Bar(1 / 1.25, (("optimized", "timm channels_last"),)),
        _ONNX_BAR,
    ),
    ("efficientnetv2_s", 300, 4): (
        Bar(1.0, (("optimized", "timm"),)),
        Bar(1.0, (("optimized", "timm channels_last"),)),
        _ONNX_BAR,
    ),
    ("efficientnet_cc_b0_8e", 224, 8): (  # timm's export, unlike ours, is for one batch
        Bar(1 / 1.1, (("optimized", "timm"),)),
        Bar(1 / 1.1, (("optimized", "timm channels_last"),)),
    ),
}


def training_bytes(options: Options) -> Iterator[Table]:
    """Yield what each contender keeps for backward."""
    for row in _TRAININGS[: 1 if options.quick else None]:
        work = Work(row.arch, row.size, 2, options.device)
        contenders = trainers(work, compiled=False)
        values = {}
        for name, (model, images) in contenders.items():
            kept = kept_bytes(model, lambda model=model, images=images: model(images))  # type: ignore[misc]
            values[name] = Spread.of([kept / work.batch / _MIB])
        yield Table(
            "bytes",
            f"Kept for backward, {row.arch} @{row.size}",
            "MiB an image",
            values,
            (Bar(row.bytes_limit, (_LEAN,)),),
        )


def training_time(options: Options) -> Iterator[Table]:
    """Yield the times of forward and backward."""
    for row in _TRAININGS[: 1 if options.quick else None]:
        if row.arch in _TIMED:
            work = Work(row.arch, row.size, row.batch, options.device)
            contenders = trainers(work, compiled=row.arch in _COMPILED and not options.quick)
            steps = {name: train_step(*contender) for name, contender in contenders.items()}
            yield timed("train", f"Training step, {work}", steps, options, _STEP_BARS)


def inference_time(options: Options) -> Iterator[Table]:
    """Yield the times of classifying a batch."""
    for (arch, size, batch), bars in list(_INFERENCES.items())[: 1 if options.quick else None]:
        work = Work(arch, size, batch, options.device)
        with predictors(work) as steps:
            yield timed("inference", f"Inference, {work}", steps, options, bars)


# VmHWM counts from the start of the program, ru_maxrss from its parent's.
_CREATE = """
import sys, time, timm, timm_effnet_ext
name, file, classes = sys.argv[1], sys.argv[2], int(sys.argv[3])
start = time.perf_counter()
overlay = {"file": file, "num_classes": classes}
model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes)
for p in model.parameters():
    p.detach().sum()
milliseconds = (time.perf_counter() - start) * 1e3
print(milliseconds, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024)
"""
_CREATION_BARS = (("time", "ms", 0.35), ("peak memory", "MiB", 0.7))


def creation(options: Options) -> Iterator[Table]:
    """Yield time and peak memory of a process that creates a model with weights and reads each of them once."""
    arch, tag, classes = "efficientnetv2_xl", "in21k", 21843
    if options.quick:
        arch, tag, classes = "efficientnet_b0", "ns_jft_in1k", 1000
    sides = {"timm": f"{TIMM_PREFIX}{arch}.{tag}", "ours": f"{PREFIX}{arch}.{tag}"}
    runs: dict[str, list[list[float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(timm.create_model(PREFIX + arch, num_classes=classes).state_dict(), file)
        for _ in range(options.rounds):
            for side, name in sides.items():
                runs[side].append(numbers_of(_CREATE, name, file, classes))
    for column, (what, unit, limit) in enumerate(_CREATION_BARS):
        values = {side: Spread.of(row[column] for row in rows) for side, rows in runs.items()}
        bars = () if options.quick else (Bar(limit, (("ours", "timm"),)),)  # of a large model
        yield Table("creation", f"Creation, {arch}, {classes} classes: {what}", unit, values, bars)


_IMPORT = """
import time, timm
start = time.perf_counter()
import timm_effnet_ext
print((time.perf_counter() - start) * 1e3)
"""


def import_time(options: Options) -> Iterator[Table]:
    """Yield the time of `import timm_effnet_ext` after `import timm`, against the 50 ms that it may take."""
    times = [numbers_of(_IMPORT)[0] for _ in range(options.rounds)]
    values = {"ours": Spread.of(times), "allowed": Spread(50.0, 50.0, 0)}
    yield Table("import", "import timm_effnet_ext after import timm", "ms", values, (Bar(1.0, (("ours", "allowed"),)),))


PARTS: dict[str, Callable[[Options], Iterator[Table]]] = {
    "bytes": training_bytes,
    "train": training_time,
    "inference": inference_time,
    "creation": creation,
    "import": import_time,
}


def timed(name: str, title: str, steps: dict[str, Callable[[], Any]], options: Options, bars: tuple[Bar, ...]) -> Table:
    """Return the times of all steps as a table, with those bars whose both sides are there."""
    times = alternate(steps, options.rounds, options.device)
    held = tuple(bar for bar in bars if all(side in steps for pair in bar.pairs for side in pair))
    return Table(name, title, "ms", {side: Spread.of(values) for side, values in times.items()}, held)
