"""Runs a call in a process of its own, so that a C library that crashes or hangs on a damaged file is an error here.

The process is a fork, which costs milliseconds; where there is no fork (Windows) the call runs in this process.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

from timm_effnet_ext.errors import CheckpointFormatError

_OK, _REFUSED = b"+", b"-"


def isolated(call: Callable[[], bytes], cpu_seconds: int = 5) -> bytes:
    """Return what `call` returns.

    Its errors come back as texts, so what file they are about is put before them on this side.

    Raises:
        CheckpointFormatError: `call` raised it, or it crashed, or took more than `cpu_seconds` of processor time.
    """
    if not hasattr(os, "fork"):
        return call()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads, whose locks a fork might find held; `call` uses no threads and no locks of others.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        _run(call, writer, cpu_seconds)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    kind, payload = answer[:1], answer[1:]
    if status == 0 and kind == _OK:
        return payload
    if kind == _REFUSED:
        raise CheckpointFormatError(payload.decode("utf-8", "replace"))
    is_hang = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    raise CheckpointFormatError(f"the library that reads it {'hangs' if is_hang else 'crashed'}: it is damaged")


def _run(call: Callable[[], bytes], writer: int, cpu_seconds: int) -> None:
    """Send the result through the pipe and end the process, whatever happens."""
    code = 1
    try:
        import faulthandler
        import resource

        faulthandler.disable()  # a crash is reported by us
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answer = _OK + call()
        except CheckpointFormatError as err:
            answer = _REFUSED + str(err).encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
        code = 0
    finally:
        os._exit(code)
