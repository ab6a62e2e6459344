"""Runs timm's tests/test_models.py, from the sdist of the installed timm, over our models."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

BUILD = Path("build/timm-suite")


def fetch(release: str) -> Path:
    """Return the test file of timm `release`, downloading its sdist once."""
    folder = BUILD / f"timm-{release}"
    if not folder.is_dir():
        BUILD.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        subprocess.run([*pip, "--dest", str(BUILD), f"timm=={release}"], check=True)
        with tarfile.open(BUILD / f"timm-{release}.tar.gz") as archive:
            archive.extractall(BUILD, filter="data")
    return folder / "tests" / "test_models.py"


def main(argv: list[str]) -> int:
    """Run the suite; further arguments go to pytest."""
    tests = fetch(version("timm")).resolve()
    # timm's own folder is called tests, as ours is: run from there, our plugin beside it on the path.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])}
    command = [sys.executable, "-m", "pytest", "-p", "timm_suite_plugin", str(tests), *argv]
    return subprocess.run(command, cwd=tests.parent.parent, env=env).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
