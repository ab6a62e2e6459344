"""The folder that the blocks of a page are run in: what the text speaks of lies there, made small."""

from __future__ import annotations

import ast
import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.convert._sources import DATA
from tests.convert.readers.keras import _files as keras_files
from tests.docs.markdown import ROOT, Block
from tests.processes import environment
from tests.train.options import OPTIONS

TRAIN_PY = os.environ.get("TIMM_TRAIN_PY")
_OF_TRAINING = re.compile(r"\btrain\.py\b|\bruns/")  # what only train.py can run, or has made
CLASSES = ("daisy", "dandelion", "rose", "sunflower", "tulip")

# What a page prints -> what is run in its place. All else is run as it is printed.
SUBSTITUTIONS: tuple[tuple[str, str], ...] = (
    (r"\bUSER\b", "alice"),  # whom the local Hub knows
    (r"--data-dir FOLDER\b", "--data-dir IMAGES"),
    (r"--num-classes N\b", f"--num-classes {len(CLASSES)}"),
    (r"\btrain\.py ", "train.py --epochs 4 --batch-size 4 --workers 0 --device cpu "),
)

# What is never the same twice in what a command prints, and what stands for it when the two are compared.
VOLATILE: tuple[tuple[str, str], ...] = (
    (r"(?<!allowed )\d(\.\d+)?e[+-]\d+", "<rounding>"),
    (r"\d+\.\d+ s\b", "<seconds>"),
    (r"commit [0-9a-f]{8}", "<commit>"),
    (r"@[0-9a-f]{40}", "@<commit>"),
    (r"http://127\.0\.0\.1:\d+", "https://huggingface.co"),
)
ABRIDGED = "…"  # a line that stands for any number of lines


def furnish(folder: Path) -> None:
    """Put what the pages speak of into an empty folder."""
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(DATA / "tpu_b0" / f"model.ckpt-4321{suffix}", folder / f"SOURCE{suffix}")
    shutil.copy(DATA / "tpu_b0" / "reference_ema.npz", folder / "reference.npz")
    shutil.copy(keras_files.folder() / "keras3_sequential.keras", folder / "model.keras")
    _photo(folder / "photo.jpg", seed=0)
    for split, count in (("train", 2), ("validation", 1)):
        for label in CLASSES:
            (folder / "IMAGES" / split / label).mkdir(parents=True)
            for seed in range(count):
                _photo(folder / "IMAGES" / split / label / f"{seed}.jpg", seed)
    (folder / "scripts").symlink_to(ROOT / "scripts")
    if TRAIN_PY:
        shutil.copy(TRAIN_PY, folder / "train.py")  # away from a timm that may lie beside it, which Python would take


def _photo(path: Path, seed: int) -> None:
    patches = np.random.default_rng(seed).integers(0, 256, (7, 10, 3), np.uint8)
    Image.fromarray(patches).resize((320, 224), Image.Resampling.BICUBIC).save(path)


class World:
    """A furnished folder, and the names that the Python of a page has defined so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {}

    def run(self, block: Block) -> None:
        """Run a block; fail where it fails or prints something else, skip where it needs train.py and there is none."""
        runner = RUNNERS.get(block.language)
        assert runner, (
            f"{block}: nothing runs {block.language!r} blocks. Make it one of {', '.join(RUNNERS)}, "
            "or write <!-- not run: REASON --> above it"
        )
        if _OF_TRAINING.search(block.text) and not TRAIN_PY:
            pytest.skip(f"{block}: TIMM_TRAIN_PY is not set: the path of train.py from timm's repository")
        runner(self, block)

    def python(self, block: Block) -> None:
        """Run Python in this process; a traceback names the line of the page."""
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        exec(code, self.names)

    def shell(self, block: Block) -> None:
        """Run commands, each of which must succeed."""
        self._shown(block.text, block)

    def transcript(self, block: Block) -> None:
        """Run the commands behind `$`, and compare what they print with what stands below each."""
        assert block.text.startswith("$ "), (
            f"{block}: neither a command nor a transcript, which begins with '$ '. Write <!-- not run: REASON --> above"
        )
        for command, _, printed in (part.partition("\n") for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]):
            shown = self._shown(command, block, fails="error: " in printed)
            wanted, found = make_comparable(printed), make_comparable(shown)
            pattern = "\n".join(".*" if line == ABRIDGED else re.escape(line) for line in wanted.splitlines())
            assert re.fullmatch(pattern, found, re.DOTALL), f"{block}: {command}\nprints\n{found}\nnot\n{wanted}"

    def examples(self, block: Block) -> None:
        """Run what stands behind `>>>`, each part by itself, and compare what it gives with what stands below."""
        test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), str(block.page), block.line - 1)
        told: list[str] = []
        assert not doctest.DocTestRunner().run(test, out=told.append).failed, f"{block}: {''.join(told)}"

    def stub(self, block: Block) -> None:
        """Check that what says how something is called is Python; it does nothing."""
        compile(block.text, str(block), "exec", ast.PyCF_ONLY_AST)

    def recipe(self, block: Block) -> None:
        """Check that train.py has the options that a YAML file sets."""
        unknown = yaml.safe_load(block.text).keys() - OPTIONS
        assert not unknown, f"{block}: train.py has no {', '.join(sorted(unknown))}"

    def _shown(self, script: str, block: Block, *, fails: bool = False) -> str:
        """Return what a terminal shows when commands are over: progress is gone, an error stays."""
        for printed, run in SUBSTITUTIONS:
            script = re.sub(printed, run, script)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert bool(done.returncode) == fails, f"{block}: exit code {done.returncode} of\n{script}\n{done.stderr}"
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return "\n".join([done.stdout, *errors])


def _environment() -> dict[str, str]:
    """Return an environment in which `python` is this one, and finds our package."""
    return environment(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def make_comparable(text: str) -> str:
    """Return a text with what is never the same twice under a name, and without spaces at the ends of lines."""
    for volatile, name in VOLATILE:
        text = re.sub(volatile, name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


RUNNERS: Mapping[str, Callable[[World, Block], None]] = {
    "pycon": World.examples,
    "pyi": World.stub,
    "python": World.python,
    "sh": World.shell,
    "text": World.transcript,
    "yaml": World.recipe,
}
