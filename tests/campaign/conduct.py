"""How commands must end, whatever they were given, and the count of how they did."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from tests.processes import environment
from timm_effnet_ext.__main__ import main

TOKEN = "hf_alice"
MAX_SECONDS = 30
_LIBTIFF = re.compile(r"(?!error)\w+: ")  # what that library writes to stderr past Python, before Pillow raises
_MAX_MEMORY = 4 << 30  # bytes of address space that one input may make a command reserve


@dataclass(frozen=True)
class Campaign:
    """How much is tried, and from which seed."""

    seed: int
    is_whole: bool

    def cases(self, whole: int, sample: int) -> range:
        """Return the numbers of the cases: of a whole campaign, or the first few of the same."""
        return range(whole if self.is_whole else sample)

    def rng(self, *what: object) -> Random:
        """Return what decides one case, whichever others are run."""
        return Random(f"{self.seed} {what}")


@dataclass
class Part:
    """What came of one part of the campaign."""

    name: str
    right: str  # why what was not refused is right
    tried: int = 0
    refused: int = 0  # in one line
    accepted: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, case: object, is_refused: bool, problem: str | None) -> None:
        """Count one input; a problem is a finding."""
        self.tried += 1
        if problem:
            self.findings.append(f"{self.name}, case {case}: {problem}")
        elif is_refused:
            self.refused += 1
        else:
            self.accepted += 1


BeginPart = Callable[[str, str], AbstractContextManager[Part]]


class Answer(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def problem(self) -> str | None:
        """What no input excuses."""
        if "Traceback" in self.err:
            return "\n".join(["a traceback, its end:", *self.err.splitlines()[-6:]])
        if TOKEN in self.out + self.err:
            return "the token is in the output"
        if self.code not in (0, 1):
            return f"exit code {self.code}: {self.err}"
        lines = [line for line in self.err.splitlines() if not _LIBTIFF.match(line)]
        if self.code and (self.out or len(lines) != 1 or not lines[0].startswith("error: ")):
            return f"not one line: {self.out}{self.err}"
        return f"done, yet: {self.err}" if self.err and not self.code else None


def answer(arguments: Sequence[object], capfd: pytest.CaptureFixture[str]) -> Answer:
    """Run one command in this process; what it raises or warns of stands in `err`, as Python would print it."""
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as warned, _limits():
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # as Python does; NumPy leaves broken files open
        try:
            code, raised = main([str(argument) for argument in arguments]), ""
        except (Exception, SystemExit, _TooLong):
            code, raised = 1, traceback.format_exc()
    out, err = capfd.readouterr()
    told = "".join(f"{warning.filename}:{warning.lineno}: {warning.message}\n" for warning in warned)
    return Answer(code, out, err + told + raised, time.monotonic() - started)


class _TooLong(BaseException):
    """No `except Exception` of the command catches it."""


@contextmanager
def _limits() -> Iterator[None]:
    """Interrupt what computes for too long, and let allocations of absurd sizes fail."""

    def interrupt(*_: object) -> None:
        raise _TooLong(f"computes for more than {MAX_SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + _MAX_MEMORY, hard))
    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def address_space() -> int:
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def start(arguments: Sequence[object], **kwargs: Any) -> subprocess.Popen[str]:
    """Start one command in a process of its own; a word that begins with "-" is for Python itself."""
    words = [str(argument) for argument in arguments]
    command = words if words[0].startswith("-") else ["-m", "timm_effnet_ext", *words]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=environment(HF_TOKEN=TOKEN), **pipes, **kwargs)


def finish(process: subprocess.Popen[str]) -> Answer:
    """Wait for a command and return how it ended."""
    started = time.monotonic()
    out, err = process.communicate()
    return Answer(process.returncode, out, err, time.monotonic() - started)
