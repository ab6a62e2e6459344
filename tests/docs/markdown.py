"""The code blocks of our Markdown pages: where each stands, what it is, and why it is not run where it is not."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
INDENTED = "sh"  # the language of a block that has no fence, which cannot say it

_FENCE = re.compile(r"( *)```(\w*)")
_INDENT = " " * 4
MARKER = re.compile(r"<!-- not run:(.*)-->")


@dataclass(frozen=True)
class Block:
    """One block of code; `reason` is what a marker on the line above says, None where there is no marker."""

    page: Path
    line: int  # of its first line of code, from 1
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced and the indented blocks of a page in their order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at])
        if fence:
            start, end, language = at + 1, lines.index(f"{fence[1]}```", at + 1), fence[2]
        elif lines[at].startswith(_INDENT) and _can_follow(lines[:at]):
            start, end, language = at, _end_of_indented(lines, at), INDENTED
        else:
            at += 1
            continue
        text = textwrap.dedent("\n".join(lines[start:end])).strip("\n") + "\n"
        yield Block(page, start + 1, language, text, _reason(lines[:at]))
        at = end + 1 if fence else end


def _can_follow(before: Sequence[str]) -> bool:
    """Whether an indented line begins a block, instead of going on with a paragraph."""
    last = before[-1].strip() if before else ""
    return not last or MARKER.fullmatch(last) is not None


def _end_of_indented(lines: Sequence[str], start: int) -> int:
    """Return the number of the first line behind a block; blank lines within it belong to it."""
    behind = (n for n in range(start, len(lines)) if lines[n].strip() and not lines[n].startswith(_INDENT))
    return next(behind, len(lines))


def _reason(before: Sequence[str]) -> str | None:
    """Return what the marker says, if the last line before a block is one; a blank line may stand between."""
    last = next((line.strip() for line in reversed(before[-2:]) if line.strip()), "")
    marker = MARKER.fullmatch(last)
    return marker[1].strip() if marker else None
