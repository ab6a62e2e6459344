"""The notebook runs as it stands in docs/, and the outputs that it keeps are those that it gives."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.docs.notebook import TOUR, run
from tests.docs.world import make_comparable

MAX_BYTES = 400_000  # GitHub shows larger notebooks late or not at all
# Processors differ in the last bits, from which training makes a crop more or less, or a hundredth of a probability.
TOLERANCE = 0.05
_DECIMAL = re.compile(r"\d+\.\d+")


def given(cell: nbformat.NotebookNode) -> str:
    """Return what a cell gives: texts, and of pictures the types. What other versions of torch warn of is no matter."""
    outputs = (output for output in cell.get("outputs", []) if output.get("name") != "stderr")
    return "\n".join(output.get("text") or ", ".join(sorted(output.data)) for output in outputs)


def is_same(kept: str, now: str) -> bool:
    """Whether two outputs say the same; decimal fractions may differ by `TOLERANCE`, rounding errors by any factor."""
    texts = (make_comparable(kept), make_comparable(now))
    words, found = zip(*((_DECIMAL.sub("<number>", text), _DECIMAL.findall(text)) for text in texts), strict=True)
    return words[0] == words[1] and all(abs(float(a) - float(b)) <= TOLERANCE for a, b in zip(*found, strict=True))


@pytest.fixture(scope="module")
def tour() -> nbformat.NotebookNode:
    return nbformat.read(TOUR, as_version=4)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for all that kernels leave behind."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.mark.usefixtures("home")
def test_every_cell_gives_what_the_notebook_keeps(tour: nbformat.NotebookNode) -> None:
    before = sorted(os.listdir(TOUR.parent))
    for kept, now in zip(tour.cells, run(tour).cells, strict=True):
        told = f"{now.source}\ngives\n{given(now)}\nnot\n{given(kept)}\n`make notebook` keeps what it gives"
        assert is_same(given(kept), given(now)), told
    assert sorted(os.listdir(TOUR.parent)) == before  # it writes elsewhere


def test_it_is_a_small_notebook_of_ten_cells_that_keeps_their_outputs(tour: nbformat.NotebookNode) -> None:
    nbformat.validate(tour)
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, 11)]  # run from the first to the last
    assert TOUR.stat().st_size < MAX_BYTES
    outputs = [output.get("name", output.output_type) for cell in code for output in cell.outputs]
    assert set(outputs) == {"stdout", "execute_result"}  # no warning, no error


@pytest.mark.parametrize(
    ("kept", "now", "same"),
    [
        ("right on 0.97 of 70", "right on 0.99 of 70", True),
        ("right on 0.97 of 70", "right on 0.71 of 70", False),
        ("right on 0.97 of 70", "right on 0.97 of 69", False),
        ("right on 0.97 of 70", "right on", False),
        ("differ by 1.2e-10", "differ by 3.4e-11", True),
        ("differ by 1.2e-10", "differ by 0.1", False),
        ("flower 0.76", "landscape 0.76", False),
        ("image/jpeg, text/plain", "text/plain", False),
    ],
)
def test_what_is_the_same(kept: str, now: str, same: bool) -> None:
    assert is_same(kept, now) is same


@pytest.mark.usefixtures("home")
def test_a_cell_that_fails_is_told() -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match=r"1 / 0[\s\S]*ZeroDivisionError"):
        run(broken)
