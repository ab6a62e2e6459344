"""What must hold of lean training on a GPU: each law compares it with what the same model does without it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from benchmarks.gpu.device import aside, compiled, graphed, used_bytes
from benchmarks.gpu.training import (
    ARCHS,
    REORDERED,
    ROUNDING,
    STOCHASTIC,
    Case,
    Off,
    Verdict,
    check,
    compare,
    draw_images,
    flatten,
    gradients_of,
    hold_as_near,
    make_cases,
    make_pair,
)
from benchmarks.measure import kept_bytes
from benchmarks.parts import Options
from tests.closeness import FLOAT32, FLOAT64, distance


def train_in_float64(options: Options) -> Iterator[Off]:
    """Yield what no rounding hides: the output, gradients, statistics and random numbers of every architecture."""
    for what, model, lean, x in make_cases(options, torch.float64, **STOCHASTIC):
        case = Case(x)
        yield from compare(what, case.train(lean), case.train(model), FLOAT64)


def train_rounded(
    options: Options, dtype: torch.dtype, *, amp: bool = False, amp_backward: bool = False
) -> Iterator[Off]:
    """Yield how near a type with fewer digits comes, as autocast or as the type of the parameters.

    Nothing is dropped, as random numbers depend on the type that they are drawn in.
    """
    for what, model, lean, x in make_cases(options, torch.float32 if amp else dtype):
        case = Case(x, dtype if amp else None, amp_backward)
        exact = Case(x.double()).train(copy.deepcopy(model).double())
        yield from hold_as_near(what, case.train(lean), case.train(model), exact, ROUNDING[dtype])


def draw_under_autocast(options: Options, dtype: torch.dtype) -> Iterator[Off]:
    """Yield whether dropout and stochastic depth draw under autocast what they draw without lean training."""
    for what, model, lean, x in make_cases(options, torch.float32, **STOCHASTIC):
        case = Case(x, dtype)
        found, expected = case.train(lean), case.train(model)
        yield check(f"{what} random state", torch.equal(found.random, expected.random))


def train_frozen(options: Options, dtype: torch.dtype, *, amp: bool = False) -> Iterator[Off]:
    """Yield the same of models of which parts are frozen: timm's frozen norms, ours, and norms in eval mode."""
    freezers: dict[str, Callable[[Any], Any]] = {
        "freeze_batch_norm_2d": freeze_batch_norm_2d,
        "freeze": lambda model: model.freeze("blocks.1-2"),
        "eval": lambda model: [m.eval() for m in model.modules() if isinstance(m, nn.BatchNorm2d)],
    }
    given = torch.float32 if amp else dtype
    for name, freeze in freezers.items():
        model, lean = make_pair(options, "efficientnet_b0", given)
        freeze(model), freeze(lean)
        case = Case(draw_images(options, given), dtype if amp else None)
        exact = Case(case.images.double()).train(copy.deepcopy(model).double())
        yield from hold_as_near(name, case.train(lean), case.train(model), exact, ROUNDING[dtype])


def scale_gradients(options: Options) -> Iterator[Off]:
    """Yield what GradScaler does in float16 where the first step overflows: it must skip that one and no other."""
    first, backoff = 2.0**40, 2.0**-30
    moved = []
    for name, model in zip(("without", "lean"), make_pair(options, "efficientnet_b0"), strict=True):
        case = Case(draw_images(options), torch.float16)
        start = flatten(list(model.parameters()))
        scaler = torch.amp.GradScaler(options.device.type, init_scale=first, backoff_factor=backoff)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale(case.loss(case.forward(model))).backward()
            scaler.step(optimizer)
            scaler.update()
            if step == 0:
                yield check(f"{name}: weights after an overflow", torch.equal(flatten(list(model.parameters())), start))
        yield check(f"{name}: scale", scaler.get_scale() == first * backoff)
        moved.append(flatten(list(model.parameters())) - start)
    # Two steps in float16 are off by a few percent of what they move; a step more or less is off by half of it.
    yield Off("what two steps move", distance(moved[1], moved[0]), 0.2)


def record_graph(options: Options, dtype: torch.dtype | None) -> Iterator[Off]:
    """Yield how a CUDA graph of a step replays it on other images, and whether each replay draws anew."""
    for what, kwargs in (("B0", {}), ("with dropout", STOCHASTIC)):
        _, lean = make_pair(options, "efficientnet_b0", **kwargs)
        case = Case(draw_images(options), dtype)

        def step(model: nn.Module = lean, case: Case = case) -> None:
            model.zero_grad(set_to_none=True)
            case.loss(case.forward(model)).backward()

        replay = graphed(step, options.device)
        case.images.copy_(draw_images(options, seed=2))
        found = []
        for _ in range(2):
            replay()
            found.append(gradients_of(lean))
        if kwargs:
            yield check(f"{what}: drawn anew", not torch.equal(*found))
        else:
            step()
            within = REORDERED[dtype or torch.float32]
            yield from (Off(f"{what}: gradients", distance(one, gradients_of(lean)), within) for one in found)


def compile_lean(options: Options) -> Iterator[Off]:
    """Yield how near the compiled model comes; it is compiled as if there was no lean training, as one graph."""
    model, lean = make_pair(options, "efficientnet_b0")
    case = Case(draw_images(options))
    exact = Case(case.images.double()).train(copy.deepcopy(model).double())
    plain = case.train(model)
    found = case.train(compiled(lean, options.device))
    yield from hold_as_near("compiled", found, plain, exact, FLOAT32)


def train_in_two_streams(options: Options) -> Iterator[Off]:
    """Yield the gradients of two models, each in a stream of its own at the same time as the other.

    In every other turn backward is asked for in the main stream instead. Meanwhile the memory of either stream is
    taken, filled with what is no number, and given back. Expected is what the same models come to in one stream.
    """
    seeds = (1, 2)
    cases = [
        (make_pair(options, "efficientnet_b0")[1], Case(draw_images(options, seed=s), torch.float16)) for s in seeds
    ]
    expected = [case.train(model).gradients for model, case in cases]
    for turn in range(2 if options.quick else 6):
        begun = []
        for model, case in cases:
            model.zero_grad(set_to_none=True)
            with aside(options.device) as join:
                _fill(case.images)
                loss = case.loss(case.forward(model))
                _fill(case.images)
                if turn % 2:
                    loss.backward()
                    _fill(case.images)
            begun.append((loss, join))
        for loss, join in begun:
            join()
            if turn % 2 == 0:
                loss.backward()
                _fill(loss)
        for i, (model, _) in enumerate(cases):
            off = distance(gradients_of(model), expected[i])
            yield Off(f"turn {turn}: gradients of model {i}", off, REORDERED[torch.float16])


def _fill(like: Tensor) -> None:
    """Take memory of many sizes, fill it with NaN and give it back."""
    for size in (2**power for power in range(8, 24)):
        torch.full((size,), torch.nan, device=like.device)


def keep_less(options: Options) -> Iterator[Off]:
    """Yield which share of the bytes is kept for backward: most of it would mean that lean training is not at work."""
    for what, model, lean, x in make_cases(options, torch.float32):
        case = Case(x, torch.float16)
        kept, usual = (kept_bytes(m, partial(case.forward, m)) for m in (lean, model))
        yield Off(f"{what} kept bytes", kept / usual, 0.5)


def leave_nothing(options: Options) -> Iterator[Off]:
    """Yield the bytes by which what is in use grows from step to step."""
    for arch in ARCHS:
        _, lean = make_pair(options, arch, **STOCHASTIC)
        case = Case(draw_images(options), torch.float16)
        used = []
        for _ in range(4):
            case.loss(case.forward(lean)).backward()
            lean.zero_grad(set_to_none=True)
            used.append(used_bytes(options.device))
        yield Off(f"{arch} bytes", float(used[-1] - used[1]), 0.0)


Law = Callable[[Options], Iterator[Off]]

LAWS: dict[str, Law] = {
    "float64: gradients, statistics, random numbers": train_in_float64,
    "float32": partial(train_rounded, dtype=torch.float32),
    "autocast to float16": partial(train_rounded, dtype=torch.float16, amp=True),
    "autocast to bfloat16": partial(train_rounded, dtype=torch.bfloat16, amp=True),
    "GradScaler meets infinity": scale_gradients,
    "CUDA graph": partial(record_graph, dtype=None),
    "CUDA graph under autocast": partial(record_graph, dtype=torch.float16),
    "two streams at once": train_in_two_streams,
    "autocast around backward, too": partial(train_rounded, dtype=torch.float16, amp=True, amp_backward=True),
    "random numbers under autocast": partial(draw_under_autocast, dtype=torch.float16),
    "frozen norms": partial(train_frozen, dtype=torch.float32),
    "frozen norms under autocast": partial(train_frozen, dtype=torch.bfloat16, amp=True),
    "parameters in bfloat16": partial(train_rounded, dtype=torch.bfloat16),
    "frozen norms in bfloat16": partial(train_frozen, dtype=torch.bfloat16),
    "less is kept for backward": keep_less,
    "nothing is left after a step": leave_nothing,
    "torch.compile": compile_lean,
}
"""Every law by what it is of, those first that most depends on."""


def try_law(name: str, options: Options) -> Verdict:
    """Return what is found of a law, with libraries that compute the same every time and round as they say.

    By default cuDNN may take other sums from run to run, and convolves float32 in TensorFloat32, with 10 bits.
    """
    cudnn: Any = torch.backends.cudnn
    usual = cudnn.deterministic, cudnn.allow_tf32
    # Not `cudnn.flags`, which from torch 2.9 on sets what `allow_tf32` has just set once more, by another name.
    cudnn.deterministic, cudnn.allow_tf32 = True, False
    try:
        return Verdict(name, tuple(LAWS[name](options)))
    finally:
        cudnn.deterministic, cudnn.allow_tf32 = usual
