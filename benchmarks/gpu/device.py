"""What only a GPU does, and what stands for it on a CPU, so that everything around it can be tried there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from benchmarks.contenders import Step
from benchmarks.machine import machine
from benchmarks.measure import live_bytes
from timm_effnet_ext.errors import EffNetExtError

_WARM_UPS = 3  # as torch's page on CUDA graphs has it: libraries set themselves up in the first calls


def check(device: torch.device) -> None:
    """Raise `EffNetExtError` unless `device` is there."""
    count = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"{count} GPUs, counted from 0" if count else "no GPU"
        raise EffNetExtError(f"--device {device}: this PyTorch sees {seen}; --device cpu tries the script alone")


def describe(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield where and with what everything runs, once the device has computed something."""
    torch.zeros(1, device=device).add_(1).cpu()
    found = machine(device)
    if device.type == "cuda":
        found["memory"] = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    else:
        found["stand-ins"] = "for CUDA graphs and streams, which a CPU has not: this tries the script alone"
    yield found


def graphed(step: Step, device: torch.device) -> Step:
    """Return what replays `step`, recorded as a CUDA graph; on a CPU `step` itself."""
    if device.type != "cuda":
        return step
    with aside(device) as join:
        for _ in range(_WARM_UPS):
            step()
    join()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@contextmanager
def aside(device: torch.device) -> Iterator[Callable[[], None]]:
    """Compute in a stream of its own, after all that was asked for before; give what lets the main one wait for it."""
    if device.type != "cuda":
        yield lambda: None
        return
    main, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(main)
    with torch.cuda.stream(stream):
        yield partial(main.wait_stream, stream)


def compiled(model: Any, device: torch.device) -> Any:
    """Return `model` compiled as one graph; on a CPU without code of its own, whose making takes minutes there."""
    return torch.compile(model, fullgraph=True, backend="inductor" if device.type == "cuda" else "aot_eager")


def used_bytes(device: torch.device) -> int:
    """Return the bytes in use now."""
    if device.type != "cuda":
        return live_bytes()
    torch.cuda.synchronize(device)
    return torch.cuda.memory_allocated(device)


def random_state(device: torch.device) -> torch.Tensor:
    """Return the state of the generator that random numbers on `device` come from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def free(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def first_out_of_memory(steps: dict[str, Callable[[], object]], device: torch.device) -> str | None:
    """Run every step once; return the name of the first that the memory does not hold, None if it holds all."""
    for name, step in steps.items():
        try:
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            return name
    return None
