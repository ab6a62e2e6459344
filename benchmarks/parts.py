"""What is compared, on which work, and the bars that our side is held to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import save_file

from benchmarks.contenders import Work, train_step, trainers
from benchmarks.engines import ALWAYS, BFLOAT16, COMPILED, ENGINES, OTHER_FORMS, predictors
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
# With how many threads; B4 differs from B0 in width and depth only.
_TIMED: dict[str, tuple[int | None, ...]] = {
    "efficientnet_b0": (None, 1),
    "efficientnetv2_s": (None,),
    "efficientnet_cc_b0_8e": (None,),
}
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
_STATIC, _EVERY, _INT8 = "ours in ONNX Runtime", *OTHER_FORMS
_EXPORT_BARS = (Bar(1.0, ((_STATIC, "timm in ONNX Runtime"),)), Bar(1.03, ((_EVERY, _STATIC),)))
_BFLOAT16_BAR = Bar(0.75, ((BFLOAT16, "optimized"),))


def _faster(limit: float, than: str) -> Bar:
    return Bar(limit, (("optimized", than),))


class _Inference(NamedTuple):
    arch: str
    size: int
    batch: int
    threads: int | None
    names: tuple[str, ...]
    bars: tuple[Bar, ...]


_SOME = (*ALWAYS, BFLOAT16, *ENGINES[:2])
_INFERENCES = (
    _Inference(
        "efficientnet_b0", 224, 8, None,
        (*ALWAYS, BFLOAT16, *COMPILED, *ENGINES, *OTHER_FORMS),
        (_faster(0.7, "timm"), _faster(0.85, "timm channels_last"), _faster(1.3, _STATIC), *_EXPORT_BARS,
         _BFLOAT16_BAR, Bar(0.65, ((_INT8, _STATIC),))),
    ),
    _Inference("efficientnet_b0", 224, 8, 1, _SOME, (_faster(0.7, "timm"), _faster(1.0, "timm channels_last"))),
    _Inference("efficientnet_b0", 224, 1, None, _SOME, (_faster(1.0, "timm"), _faster(1.5, _STATIC))),
    _Inference("efficientnet_b0", 224, 1, 1, _SOME, (_faster(1.0, "timm"),)),
    _Inference(
        "efficientnetv2_s", 300, 4, None,
        (*ALWAYS, BFLOAT16, *ENGINES, _EVERY),
        (_faster(1.0, "timm"), _faster(1.0, "timm channels_last"), _faster(1.06, _STATIC), *_EXPORT_BARS,
         _BFLOAT16_BAR),
    ),
    _Inference(
        "efficientnet_lite0", 224, 8, None,
        (*ALWAYS, BFLOAT16, *ENGINES[:2], *OTHER_FORMS),
        (_faster(1.0, "timm"), *_EXPORT_BARS, Bar(0.65, ((_INT8, _STATIC),))),
    ),
    _Inference(  # timm's export, unlike ours, is for one batch
        "efficientnet_cc_b0_8e", 224, 8, None, _SOME,
        (_faster(1 / 1.1, "timm"), _faster(1 / 1.1, "timm channels_last")),
    ),
)  # fmt: skip


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
        for count in _TIMED.get(row.arch, ()):
            work = Work(row.arch, row.size, row.batch, options.device, threads=count)
            compiled = row.arch in _COMPILED and count is None and not options.quick
            with threads(count):
                contenders = trainers(work, compiled=compiled)
                steps = {name: train_step(*contender) for name, contender in contenders.items()}
                yield timed("train", f"Training step, {work}", steps, options, _STEP_BARS)


def inference_time(options: Options) -> Iterator[Table]:
    """Yield the times of classifying a batch."""
    for row in _INFERENCES[: 1 if options.quick else None]:
        work = Work(row.arch, row.size, row.batch, options.device, threads=row.threads)
        names = ALWAYS if options.quick else row.names
        with threads(row.threads), predictors(work, names) as steps:
            yield timed("inference", f"Inference, {work}", steps, options, row.bars, runs=3)


_STEPS = """
import sys
name, size, batch, memory_format, kept = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
import timm_effnet_ext
if kept == "kept":
    timm_effnet_ext.keep_freed_memory()
import timm, torch
from benchmarks.contenders import train_step
from benchmarks.measure import Spread, alternate
memory_format = getattr(torch, memory_format)
model = timm.create_model(name, lean=True).train().to(memory_format=memory_format)
step = train_step(model, torch.randn(batch, 3, size, size).to(memory_format=memory_format))
spread = Spread.of_rounds(alternate({name: step}, 6, torch.device("cpu"))[name])
print(spread.min, spread.faults)
"""
_KEPT_BAR = Bar(0.92, (("as under run", "as it is"),))


def kept_memory(options: Options) -> Iterator[Table]:
    """Yield the times of a lean training step in processes that keep freed memory, as `run` does, and that do not."""
    for row in _TRAININGS[: 1 if options.quick else 2]:
        for memory_format in ("contiguous_format", "channels_last"):
            arguments = (PREFIX + row.arch, row.size, row.batch, memory_format)
            runs: dict[str, list[list[float]]] = {"as it is": [], "as under run": []}
            for _ in range(max(2, options.rounds // 4)):
                for side, taken in runs.items():
                    taken.append(numbers_of(_STEPS, *arguments, "kept" if side == "as under run" else "given back"))
            values = {s: Spread.of([m for m, _ in r], [int(faults) for _, faults in r]) for s, r in runs.items()}
            title = f"Lean training step, {row.arch} @{row.size}, batch {row.batch}, {memory_format}"
            yield Table("memory", title, "ms", values, (_KEPT_BAR,))


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
    "memory": kept_memory,
    "inference": inference_time,
    "creation": creation,
    "import": import_time,
}


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads in the block; None leaves them as they are."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count or usual)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def timed(
    name: str,
    title: str,
    steps: dict[str, Callable[[], Any]],
    options: Options,
    bars: tuple[Bar, ...],
    runs: int = 1,
) -> Table:
    """Return the times of all steps as a table, with those bars whose both sides are there."""
    taken = alternate(steps, options.rounds, options.device, runs)
    held = tuple(bar for bar in bars if all(side in steps for pair in bar.pairs for side in pair))
    return Table(name, title, "ms", {side: Spread.of_rounds(rounds) for side, rounds in taken.items()}, held)
