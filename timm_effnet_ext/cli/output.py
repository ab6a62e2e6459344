"""How results look on stdout, as facts and tables for people or JSON for machines, and progress on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from timm_effnet_ext.errors import plain

if TYPE_CHECKING:
    from tqdm import tqdm

_GAP = "  "  # between columns
_MIN_COLUMN = 12  # characters that the last column keeps on the narrowest terminal


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print `value` as JSON; None keeps what lists hundreds of things on one line."""
    print(json.dumps(value, indent=indent))


def print_facts(rows: Iterable[tuple[str, str]]) -> None:
    """Print what is to be said, line by line, each behind its name."""
    rows = tuple(rows)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}{_GAP}{plain(text)}")


def print_table(rows: Iterable[Sequence[Any]], headers: Sequence[str], *, left: Iterable[int] = (0,)) -> None:
    """Print cells as they are, right-aligned but for the columns `left`.

    A terminal gets the last column wrapped to its width; into a pipe or a file goes one line a row, however long.
    """
    from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate  # slow to import

    rule, row = Line("", "-", _GAP, ""), DataRow("", _GAP, "")
    # tabulate pads its headers by two; as a first row above a rule they take the width that they need.
    layout = TableFormat(None, rule, None, None, row, row, padding=0, with_header_hide=None)
    lines = [[plain(str(cell)) for cell in cells] for cells in (headers, *rows)]
    align = ["left" if i in set(left) else "right" for i in range(len(headers))]
    if sys.stdout.isatty():
        *others, _ = (max(map(len, column)) + len(_GAP) for column in zip(*lines, strict=True))
        width = max(_MIN_COLUMN, shutil.get_terminal_size().columns - sum(others))
        lines = [part for line in lines for part in _wrap(line, width)]
    lines.insert(1, SEPARATING_LINE)
    print(tabulate(lines, tablefmt=layout, colalign=align, disable_numparse=True))


def _wrap(line: list[str], width: int) -> Iterator[list[str]]:
    """Yield a line with its last cell cut at `width`, and what is left of that on lines of its own."""
    *cells, last = line
    first, *more = textwrap.wrap(last, width) or [""]
    yield [*cells, first]
    yield from ([*[""] * len(cells), part] for part in more)


def hide_bars_of_the_hub(*, quiet: bool = False) -> None:
    """Keep the Hub's client from drawing its bars where ours are not drawn."""
    from huggingface_hub.utils import disable_progress_bars  # slow to import

    if quiet or not sys.stderr.isatty():
        disable_progress_bars()


class ProgressBar:
    """Shows `progress(step, done, total)`, done and total in bytes, until it is closed."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._on_terminal = sys.stderr.isatty()
        self._step = ""
        self._bar: tqdm | None = None

    def __call__(self, step: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if step != self._step:
            self._start(step, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def _start(self, step: str, total: int) -> None:
        self.close()
        self._step = step
        if self._on_terminal:
            from tqdm import tqdm  # only where it is shown

            unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1000} if total > 1 else {}
            self._bar = tqdm(total=total, desc=step, file=sys.stderr, leave=False, **unit)
        else:
            print(f"{step} …", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
