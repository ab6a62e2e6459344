"""How results look on stdout: tables for people and JSON for machines."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

_RULE, _ROW = Line("", "-", "  ", ""), DataRow("", "  ", "")
# tabulate pads its headers by two; as a first row above a rule they take the width that they need.
_FORMAT = TableFormat(None, _RULE, None, None, _ROW, _ROW, padding=0, with_header_hide=None)
_MIN_COLUMN = 12  # characters that the last column keeps on the narrowest terminal


def print_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    print(json.dumps(value, indent=2))


def print_table(rows: Iterable[Sequence[Any]], headers: Sequence[str], *, left: Iterable[int] = (0,)) -> None:
    """Print cells as they are, right-aligned but for the columns `left`.

    A terminal gets the last column wrapped to its width; into a pipe or a file goes one line a row, however long.
    """
    lines = [[str(cell) for cell in row] for row in (headers, *rows)]
    align = ["left" if i in set(left) else "right" for i in range(len(headers))]
    if sys.stdout.isatty():
        *others, _ = (max(map(len, column)) + len(_ROW.sep) for column in zip(*lines, strict=True))
        width = max(_MIN_COLUMN, shutil.get_terminal_size().columns - sum(others))
        lines = [part for line in lines for part in _wrapped(line, width)]
    lines.insert(1, SEPARATING_LINE)
    print(tabulate(lines, tablefmt=_FORMAT, colalign=align, disable_numparse=True))


def _wrapped(line: list[str], width: int) -> Iterator[list[str]]:
    """Yield a line with its last cell cut at `width`, and what is left of that on lines of its own."""
    *cells, last = line
    first, *more = textwrap.wrap(last, width) or [""]
    yield [*cells, first]
    yield from ([*[""] * len(cells), part] for part in more)
