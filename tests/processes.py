"""Python in a process of its own, with this repository on its path."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
_DROP_CAPABILITY, _CAPABILITIES = 24, (1, 2)  # Linux prctl.h PR_CAPBSET_DROP; capability.h CAP_DAC_*


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of such a process: one thread, and no GPU."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **changes}


def python(
    *args: object, cwd: Path | None = None, preexec_fn: Callable[[], None] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run Python; return what it printed, its errors and its exit code."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd, preexec_fn=preexec_fn, env=environment(**env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def obey_modes() -> None:
    """Give up, in a process about to start, what lets root write anywhere; others have nothing to give up."""
    libc = ctypes.CDLL(None)
    for capability in _CAPABILITIES:
        libc.prctl(_DROP_CAPABILITY, capability, 0, 0, 0)


def imported_by(command: list[str], *modules: str, code: int = 0, cwd: Path | None = None) -> set[str]:
    """Return which of some modules a command of ours has imported when it ends with `code`."""
    program = "import sys; from timm_effnet_ext.__main__ import main; print(main(sys.argv[1:]), *sys.modules)"
    done = python("-c", program, *command, cwd=cwd)
    found, *names = done.stdout.splitlines()[-1].split()
    assert found == str(code), done.stderr
    return set(modules).intersection(names)
