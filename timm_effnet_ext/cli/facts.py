"""Facts on stdout: a name and what is to be said of it, line by line."""

from __future__ import annotations

from collections.abc import Iterable


def print_facts(rows: Iterable[tuple[str, str]]) -> None:
    """Print two columns."""
    rows = tuple(rows)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
