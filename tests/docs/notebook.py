"""Runs docs/tour.ipynb in a kernel of this Python; as a program writes what its cells give into it: `make notebook`."""

from __future__ import annotations

import copy

import nbformat
from nbclient import NotebookClient

from tests.processes import ROOT, environment

TOUR = ROOT / "docs" / "tour.ipynb"
_LIMIT = 300  # seconds for a cell
_NO_BARS = "ignore:IProgress not found"  # tqdm asks for ipywidgets in every kernel, and nothing here shows its bars


def run(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook of docs/ with what its cells give now, without the times at which they did.

    Raises:
        CellExecutionError: A cell fails; the message has the cell and its traceback.
    """
    done = copy.deepcopy(notebook)
    where = {"metadata": {"path": str(TOUR.parent)}}  # as Jupyter opens it
    client = NotebookClient(done, timeout=_LIMIT, kernel_name="python3", record_timing=False, resources=where)
    client.execute(env=environment(PYTHONWARNINGS=_NO_BARS))
    return done


def main() -> None:
    """Put into the notebook what its cells give."""
    nbformat.write(run(nbformat.read(TOUR, as_version=4)), TOUR)


if __name__ == "__main__":
    main()
