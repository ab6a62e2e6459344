"""Lays the photographs of solar cells (PyPI package elpv-dataset) into folders that timm reads, a part held out.

2,624 cells photographed in the infrared light that they give off under current, 300 pixels, grey; CC BY-NC-SA 4.0.
"A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery", Buerhop-Lutz et al.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

CLASSES = ("defective", "functional")


class Cell(NamedTuple):
    """A photograph, how probable experts thought a defect (0, 1/3, 2/3 or 1), and mono or poly: how silicon grew."""

    path: Path
    defect: float
    silicon: str

    @property
    def label(self) -> str:
        """The class."""
        return CLASSES[0] if self.defect > 0.5 else CLASSES[1]


def unpack(target: Path, fold: int, folds: int) -> Path:
    """Link the cells as target/train/CLASS/cell0001.png and target/validation/…, and return `target`.

    Validation gets every `folds`-th cell of each probability and silicon, from the `fold`-th on: each cell is in the
    validation of one fold, and every fold has as much of each kind.
    """
    counts: defaultdict[tuple[float, str], int] = defaultdict(int)
    for cell in read_cells():
        kind = cell.defect, cell.silicon
        split = "validation" if counts[kind] % folds == fold else "train"
        counts[kind] += 1
        link = target / split / cell.label / cell.path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(cell.path)
    return target


def read_cells() -> Iterator[Cell]:
    """Yield the cells in the order of the package's table."""
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("elpv_dataset: not there. Install it: pip install elpv-dataset")
    data = Path(spec.submodule_search_locations[0]).resolve() / "data"
    for line in (data / "labels.csv").read_text().splitlines():
        name, defect, silicon = line.split()
        yield Cell(data / name, float(defect), silicon)
