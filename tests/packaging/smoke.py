"""Tries the installed wheel where nothing else is: the core without its extras, away from the source, without network.

`python -I tests/packaging/smoke.py`, with the Python of the environment that it is installed in.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image

import timm_effnet_ext

BUNDLE = Path(__file__).parents[1] / "data" / "tf" / "tpu_b0"
FOREIGN = ("matplotlib", "onnx", "onnxscript", "onnxruntime", "sklearn", "pytest", "tensorflow", "keras")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class Step(NamedTuple):
    """What is typed, the exit code, and a pattern of a line of what it prints then."""

    command: tuple[str, ...]
    code: int
    line: str


def ours(*words: object, code: int = 0, line: str) -> Step:
    """Return a step of our command line."""
    return Step((str(Path(sys.executable).with_name("timm-effnet-ext")), *map(str, words)), code, line)


def python(program: str, line: str) -> Step:
    """Return a step of a program in Python."""
    return Step((sys.executable, "-c", program), 0, line)


STEPS = (
    ours("--version", line=re.escape(f"timm-effnet-ext {timm_effnet_ext.__version__}")),
    ours("list", line=r"hucorz_efficientnetv2_s +21\.\d+ .*"),
    ours("info", "hucorz_efficientnetv2_s", line=r" +total .*"),
    ours("recipe", "scratch-b0", line="model: hucorz_efficientnet_b0"),
    ours("google", "list", line=r"efficientnet_b0\.in1k .*"),
    python(
        "import timm, timm_effnet_ext; print(timm.create_model('hucorz_efficientnet_b0', num_classes=7).num_classes)",
        line="7",
    ),
    ours("inspect", BUNDLE, line=r"architecture +efficientnet_b0 .*"),
    ours("convert", BUNDLE, "-o", "flowers", "--weights", "ema", "--reference", BUNDLE / "reference_ema.npz",
         line="wrote +flowers: hucorz_efficientnet_b0, verified"),
    ours("predict", "flowers", "photo.png", "--cam", "why.png", line=r" +0\.\d+ +\d\b.*"),
    ours("run", "count.py", line="29"),
    ours("plot", ".", code=1, line=r"error: plot needs matplotlib: pip install 'timm_effnet_ext\[plot\]'"),
)  # fmt: skip


def prepare(folder: Path) -> None:
    """Write a photo, a program, and the files of a run of train.py."""
    Image.linear_gradient("L").save(folder / "photo.png")
    (folder / "count.py").write_text("import timm; print(len(timm.list_models('hucorz_*')))")
    (folder / "summary.csv").write_text("epoch,train_loss\n0,2.5\n")
    (folder / "args.yaml").write_text("model: hucorz_efficientnet_b0\n")


def check(step: Step, folder: Path) -> None:
    """Run a step in `folder`; exit with what it printed where that is not as expected."""
    env = {**ENVIRONMENT, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    done = subprocess.run(step.command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    printed = done.stdout + done.stderr
    if done.returncode != step.code or not re.search(rf"^{step.line}$", printed, re.MULTILINE):
        raise SystemExit(f"{step}\nexit code {done.returncode}\n{printed}")
    print("ok ", Path(step.command[0]).name, *step.command[1:])


def main() -> int:
    """Check the environment, then run every step."""
    home = Path(timm_effnet_ext.__file__).parent
    if not home.is_relative_to(sys.prefix):
        raise SystemExit(f"{home} is not what was installed in {sys.prefix}")
    if foreign := [name for name in FOREIGN if find_spec(name)]:
        raise SystemExit(f"this environment is not empty: it has {', '.join(foreign)}")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for step in STEPS:
            check(step, Path(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
