"""What is measured on a GPU: steps of training under autocast, their memory, and inference, at the batch that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.contenders import Step, Work, predictors, train_step, trainers
from benchmarks.gpu.device import first_out_of_memory, free
from benchmarks.measure import Spread, alternate, peak_bytes
from benchmarks.parts import Options, timed
from benchmarks.tables import Table
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.plan import parse

EAGER = ("timm", "timm channels_last", "timm checkpointed", "lean", "lean channels_last")
COMPILED = ("timm compiled", "timm channels_last", "lean channels_last")
_STAGED = ("timm channels_last", "lean channels_last")
# float16 takes the same bytes and the same units; bfloat16 needs no GradScaler, whose state would be measured, too.
_TYPE = torch.bfloat16
_BATCH, _QUICK_BATCH, _QUICK_SIZE = 128, 4, 64
_STAGED_ARCH, _PLAN = "efficientnetv2_s", "paper:efficientnetv2_s batch=grow"  # arXiv:2104.00298 Table 6
_MIB = 2**20


def train(options: Options, arch: str, size: int, contenders: Sequence[str]) -> Iterator[Table]:
    """Yield the times of a training step, and its peaks beyond what was in use before."""
    work, steps, note = _fit(_work(options, arch, size), lambda work: _steps(work, contenders))
    title = f"{work}, autocast to bfloat16{note}"
    yield timed("train", f"Training step, {title}", steps, options, ())
    if options.device.type == "cuda":  # a CPU's memory has no such count
        peaks = {name: Spread.of([peak_bytes(step, options.device) / _MIB]) for name, step in steps.items()}
        yield Table("peak", f"Peak memory of a training step, {title}", "MiB", peaks)


def learn_progressively(options: Options) -> Iterator[Table]:
    """Yield the images a second of each stage, batches grown to the same number of pixels."""
    plan = parse(_PLAN).plan(None)
    values = {}
    for stage, batch in zip(plan.stages, plan.batch_sizes(_BATCH), strict=True):
        size, batch = (stage.size // 4, _QUICK_BATCH) if options.quick else (stage.size, batch)
        work = Work(_STAGED_ARCH, size, batch, options.device)
        work, steps, note = _fit(work, lambda work: _steps(work, _STAGED))
        for name, times in alternate(steps, options.rounds, options.device).items():
            side = f"{name.partition(' ')[0]} @{work.size}, batch {work.batch}{note}"
            values[side] = Spread.of(work.batch / time * 1e3 for time in times)
        del steps
        free(options.device)
    title = f"Progressive learning by stage, {_STAGED_ARCH}, channels_last, autocast to bfloat16"
    yield Table("progressive", title, "images/s", values)


def predict(options: Options, arch: str, size: int) -> Iterator[Table]:
    """Yield the times of classifying a batch; on a GPU beside torch.compile."""
    compiled = options.device.type == "cuda"
    work = _work(options, arch, size)._replace(dtype=_TYPE)
    with predictors(work, compiled=compiled) as steps:
        yield timed("inference", f"Inference, {work}, in bfloat16", steps, options, ())


def _work(options: Options, arch: str, size: int) -> Work:
    size, batch = (_QUICK_SIZE, _QUICK_BATCH) if options.quick else (size, _BATCH)
    return Work(arch, size, batch, options.device)


def _steps(work: Work, contenders: Sequence[str]) -> dict[str, Step]:
    models = trainers(work, compiled="timm compiled" in contenders, only=contenders)
    return {name: train_step(model, images, _TYPE) for name, (model, images) in models.items()}


def _fit(work: Work, make: Callable[[Work], dict[str, Step]]) -> tuple[Work, dict[str, Step], str]:
    """Halve the batch until the memory holds every step.

    Return the work, its steps, which have run once, and what is to be said of the batches that were too large.
    """
    note = ""
    while True:
        steps = make(work)
        name = first_out_of_memory(steps, work.device)
        if name is None:
            return work, steps, note
        if work.batch == 1:
            raise EffNetExtError(f"{work}: the memory does not hold {name}")
        note += f" ({name} was out of memory at {work.batch})"
        del steps
        free(work.device)
        work = work._replace(batch=work.batch // 2)
