"""A comparison as a table: what each contender took, what our side is held to, how it is printed and written down."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.measure import Spread
from timm_effnet_ext.cli.output import print_table


class Bar(NamedTuple):
    """A ratio of minima, ours to theirs, that must not be passed; of several pairs the best one counts."""

    limit: float
    pairs: tuple[tuple[str, str], ...]


class Table(NamedTuple):
    """One comparison: what each contender took, in `unit`; less is better, but of a rate, which has no bars."""

    name: str
    title: str
    unit: str
    values: dict[str, Spread]
    bars: tuple[Bar, ...] = ()

    def ratio(self, bar: Bar) -> float:
        """Return the ratio that is held against a bar."""
        return min(self.values[mine].min / self.values[theirs].min for mine, theirs in bar.pairs)


def print_comparison(table: Table) -> None:
    """Print what each contender took, beside timm's, and whether the bars hold."""
    print(f"\n{table.title} ({table.unit})")
    base = table.values.get("timm")
    rows = [
        (name, f"{s.min:.4g}", f"{s.median:.4g}", f"{s.min / base.min:.3f}x" if base else "", s.rounds)
        for name, s in table.values.items()
    ]
    print_table(rows, ["", "min", "median", "of timm", "rounds"])
    for bar in table.bars:
        ratio = table.ratio(bar)
        names = " or ".join(f"{mine} / {theirs}" for mine, theirs in bar.pairs)
        print(f"{'holds' if ratio <= bar.limit else 'MISSED'}: {names} {ratio:.3f} (bar {bar.limit:.3f})")


def record(table: Table) -> dict[str, Any]:
    """Return the table as JSON has it."""
    bars = [
        {"pairs": bar.pairs, "limit": bar.limit, "ratio": table.ratio(bar), "holds": table.ratio(bar) <= bar.limit}
        for bar in table.bars
    ]
    values = {name: spread._asdict() for name, spread in table.values.items()}
    return {"part": table.name, "title": table.title, "unit": table.unit, "values": values, "bars": bars}
