"""Draws the tables of the benchmark as bars, ours in colour."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.tables import Table
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.storage import new_file

_OURS, _THEIRS, _GREY = "#0072B2", "#bbbbbb", "#555555"  # blue: Okabe & Ito, Color Universal Design
_OUR_NAMES = ("ours", "lean", "optimized")


def check_matplotlib() -> None:
    """Raise `EffNetExtError` unless there is matplotlib; call it before minutes are spent on what is to be drawn."""
    if find_spec("matplotlib") is None:
        raise EffNetExtError("the picture needs matplotlib: pip install 'timm_effnet_ext[plot]'")


def save_bars(tables: Sequence[Table], caption: str, path: Path) -> None:
    """Write one panel a table to `path`, above the caption."""
    from matplotlib.figure import Figure

    rows = (len(tables) + 1) // 2
    figure = Figure(figsize=(12, 0.6 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flat
    for table, ax in zip(tables, axes, strict=False):
        names = sorted(table.values, key=lambda name: table.values[name].min, reverse=True)
        heights = [table.values[name].min for name in names]
        bars = ax.barh(names, heights, color=[_OURS if n.startswith(_OUR_NAMES) else _THEIRS for n in names])
        ax.bar_label(bars, fmt=_written, padding=3, fontsize=8, color=_GREY)
        ax.set_title(
            textwrap.fill(f"{table.title} ({table.unit})", width=50), loc="left", fontsize=9, fontweight="bold"
        )
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.tick_params(labelsize=8, bottom=False, labelbottom=False)
        ax.margins(x=0.12)
    for ax in axes[len(tables) :]:
        ax.remove()
    figure.supxlabel(textwrap.fill(caption, width=180), fontsize=8, color=_GREY, x=0.01, ha="left")
    with new_file(path) as part:
        figure.savefig(part, dpi=140)


def _written(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
