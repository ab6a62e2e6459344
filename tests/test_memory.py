"""Freed memory is kept by the commands that compute and by the call, and by nothing else: counted in page faults."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")

# A block of 64 MB, as large as a feature map of a batch, allocated, filled and freed ten times: 16384 pages each, or 32
# where the system gives huge ones. What is kept is paid for in the first rounds, until each block fits where one was
# before; they are not counted.
COUNT = """
import resource, torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def count():
    for round in range(40):
        if round == 30:
            before = faults()
        torch.empty(64 * 2**20, dtype=torch.uint8).fill_(1)
    return faults() - before
"""
FEW, MANY = 100, 300


def run(program: str, *before: str) -> int:
    done = subprocess.run([sys.executable, *before, program], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def test_the_call_keeps_it() -> None:
    program = "import timm_effnet_ext\nassert timm_effnet_ext.keep_freed_memory()\n"
    assert run(COUNT + program + "print(count())", "-c") < FEW


def test_importing_creating_and_optimizing_do_not() -> None:
    program = (
        "import timm, timm_effnet_ext\n"
        "model = timm.create_model('hucorz_efficientnet_b0', width_mult=0.25, depth_mult=0.25).eval()\n"
        "timm_effnet_ext.optimize_for_inference(model)(torch.zeros(1, 3, 32, 32))\n"
    )
    assert run(COUNT + program + "print(count())", "-c") > MANY


def test_a_program_under_run_and_its_workers_keep_it(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        COUNT
        + """
from torch.utils.data import DataLoader, Dataset
class Counts(Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return count()
loader = DataLoader(Counts(), num_workers=1, multiprocessing_context="fork")
print(count() + sum(int(batch) for batch in loader))
"""
    )
    assert run(str(script), "-m", "timm_effnet_ext", "run") < 2 * FEW


def test_commands_that_compute_nothing_leave_it(tmp_path: Path) -> None:
    program = "from timm_effnet_ext.__main__ import main\nmain(['recipe', '--list'])\n"
    assert run(COUNT + program + "print(count())", "-c") > MANY
