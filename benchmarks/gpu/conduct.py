"""Does one item in a process of its own, whose end, however it comes, costs the others nothing.

A kernel that fails leaves its process without a GPU, and one that hangs never comes back. The processes are forked off
one that has imported everything and never touched the GPU, as imports would take a minute of ten.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu.items import ITEMS
from benchmarks.parts import Options
from timm_effnet_ext.errors import first_line

FORKED, SPAWNED = "forkserver", "spawn"
_FAREWELL = 10  # seconds for a process to end by itself; a driver may hold even one that was killed


class Unfinished(Exception):
    """Why an item did not come to its end."""


def conduct(run: Callable[..., Any], *args: Any, seconds: float, method: str = FORKED) -> Iterator[Any]:
    """Yield what the iterable `run(*args)` yields, each as soon as it is there.

    Raises:
        Unfinished: It raised, its process died, or `seconds` were over.
    """
    context: Any = get_context(method)
    if method == FORKED:
        context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, run, *args))
    process.start()
    sender.close()
    end = time.monotonic() + seconds
    try:
        yield from _receive(receiver, end)
        process.join(timeout=_FAREWELL)
    except EOFError:
        process.join(timeout=_FAREWELL)
        raise Unfinished(f"its process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join(timeout=_FAREWELL)
        receiver.close()


def _receive(receiver: Connection, end: float) -> Iterator[Any]:
    while receiver.poll(max(0.0, end - time.monotonic())):
        found, error = receiver.recv()
        if error is not None:
            raise Unfinished(error)
        if found is None:
            return
        yield found
    raise Unfinished("it took too long and was ended")


def _work(sender: Connection, run: Callable[..., Any], *args: Any) -> None:
    try:
        for found in run(*args):
            sender.send((found, None))
        sender.send((None, None))
    except Exception as err:
        traceback.print_exc()
        sender.send((None, f"{type(err).__name__}: {first_line(err)}"))


def run_item(name: str, options: Options) -> Any:
    """Return what the item of that name yields."""
    return ITEMS[name].run(options)
