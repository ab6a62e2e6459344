"""Time and memory of a conversion beside TensorFlow's: `python -m benchmarks.conversion --tensorflow PYTHON`.

Both read the EMA variables of one EfficientNetV2-S checkpoint in the names of google/automl, with RMSProp slots, and
save them as safetensors. PYTHON is that of an environment with tensorflow and safetensors. Each runs in a process of
its own from start to end; the files are in the page cache. Ours runs without verification, as TensorFlow's does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from tests._bundle_writer import write_bundle
from tests.convert._sources import tiny_variables, with_ema

ARCH, SCOPE = "efficientnetv2_s", "efficientnetv2-s/"
TENSORFLOW = """
import sys
import tensorflow as tf
from safetensors.numpy import save_file
reader = tf.train.load_checkpoint(sys.argv[1])
names = [n for n in reader.get_variable_to_shape_map() if n.endswith("/ExponentialMovingAverage")]
save_file({n: reader.get_tensor(n) for n in names}, sys.argv[2])
"""
# Waits for its child alone, so that what it reports of memory is the child's.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
raise SystemExit(code)
"""


class Run(NamedTuple):
    """Seconds on the clock and the largest memory in MB of one process."""

    seconds: float
    megabytes: float


def measure(command: list[str]) -> Run:
    """Run a command and return what it took."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # both compiled, as installed packages are
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True, env=env
    )
    return Run(time.perf_counter() - started, int(done.stdout) / 1024)


def best(command: list[str], times: int) -> Run:
    """Return the fastest of some runs, and the largest memory of all of them."""
    runs = [measure(command) for _ in range(times)]
    return Run(min(run.seconds for run in runs), max(run.megabytes for run in runs))


def main() -> None:
    """Make the checkpoint, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensorflow", metavar="PYTHON", help="an interpreter that has tensorflow and safetensors")
    parser.add_argument("--times", type=int, default=5, help="runs of each, of which the fastest counts (5)")
    args = parser.parse_args()
    ours = [sys.executable, "-m", "timm_effnet_ext"]
    with tempfile.TemporaryDirectory() as folder:
        values = with_ema(tiny_variables(ARCH, prefix=SCOPE, num_classes=1000, width_mult=1.0, depth_mult=1.0))
        source = str(write_bundle(Path(folder, "model.ckpt-7"), dict(sorted(values.items()))))
        out = Path(folder, "out")
        convert = [*ours, "convert", source, "-o", str(out), "--no-verify", "--quiet", "--overwrite"]
        commands = {
            "python -c 'import numpy'": [sys.executable, "-c", "import numpy"],
            "inspect": [*ours, "inspect", source],
            "convert --no-verify": convert,
        }
        if args.tensorflow:
            commands["tensorflow"] = [args.tensorflow, "-c", TENSORFLOW, source, str(Path(folder, "tf.safetensors"))]
        found = {name: best(command, args.times) for name, command in commands.items()}
        read = sum(value.nbytes for value in values.values()) / 2**20
        written = (out / "model.safetensors").stat().st_size / 2**20
    print(f"{ARCH}: checkpoint {read:.0f} MB, output {written:.0f} MB, best of {args.times}, numpy {np.__version__}")
    rows = [(name, f"{run.seconds:.2f}", f"{run.megabytes:.0f}") for name, run in found.items()]
    print(tabulate(rows, headers=("process", "seconds", "peak MB"), disable_numparse=True))
    converted = found["convert --no-verify"]
    print(f"memory allowed: {1.2 * written + 100:.0f} MB")
    if args.tensorflow:
        print(f"of TensorFlow's time: {converted.seconds / found['tensorflow'].seconds:.2f} (aim: 0.20 or less)")


if __name__ == "__main__":
    main()
