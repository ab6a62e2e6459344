"""Draws what came of the fine-tuning benchmark: accuracy over epochs and in the end, time and memory."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from timm_effnet_ext.files.storage import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.finetuning import Result

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe & Ito, Color Universal Design
_GREY = "#555555"


def save_panels(results: Mapping[str, Result], caption: str, path: Path) -> None:
    """Write four panels to `path`, above the caption."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.4), layout="constrained")
    over_epochs, in_the_end, time, memory = figure.subplots(2, 2).flat
    _draw_curves(over_epochs, results)
    _draw_finals(in_the_end, results)
    _draw_costs(time, results, 0)
    _draw_costs(memory, results, 1)
    titles = {
        over_epochs: "Top-1 (%) over the epochs; thin: each fold",
        in_the_end: "Top-1 (%) after the last epoch; dots: each fold",
        time: "Training (s); hatched: lean",
        memory: "Kept for backward (MiB an image); hatched: lean",
    }
    for ax, title in titles.items():
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    figure.supxlabel(textwrap.fill(caption, width=170), fontsize=8, color=_GREY, x=0.01, ha="left")
    with new_file(path) as part:
        figure.savefig(part, dpi=140)


def _draw_curves(ax: Axes, results: Mapping[str, Result]) -> None:
    for (name, result), color in zip(results.items(), _COLORS, strict=False):
        epochs = range(1, len(result.top1[0]) + 1)
        for values in result.top1:
            ax.plot(epochs, values, color=color, linewidth=0.8, alpha=0.35)
        ax.plot(epochs, [mean(of) for of in zip(*result.top1, strict=True)], color=color, linewidth=2, label=name)
        ax.set_xticks(epochs)
    ax.legend(frameon=False, fontsize=9)


def _draw_finals(ax: Axes, results: Mapping[str, Result]) -> None:
    """Draw means as bars and folds as dots; the axis does not begin at zero, or the bars would look alike."""
    means = [mean(result.final) for result in results.values()]
    ax.barh(list(results), means, color=_COLORS[: len(means)])
    for (name, result), value in zip(results.items(), means, strict=True):
        ax.plot(result.final, [name] * len(result.final), "o", color="black", markersize=3)
        behind: Any = {"xy": (max(result.final), name), "xytext": (8, 0), "textcoords": "offset points"}
        ax.annotate(f"{value:.1f}", **behind, va="center", fontsize=9, color=_GREY)
    ax.set_xlim(left=min(value for result in results.values() for value in result.final) - 5)
    ax.margins(x=0.12)
    ax.invert_yaxis()


def _draw_costs(ax: Axes, results: Mapping[str, Result], column: int) -> None:
    """Draw one column of the costs, a bar for the plain model and a hatched one for the lean."""
    looks: tuple[dict[str, Any], ...] = ({}, {"alpha": 0.55, "hatch": "///"})
    for row, (result, color) in enumerate(zip(results.values(), _COLORS, strict=False)):
        for cost, offset, look in zip((result.plain, result.lean), (-0.2, 0.2), looks, strict=True):
            bar = ax.barh(row + offset, cost[column], height=0.38, color=color, **look)
            ax.bar_label(bar, fmt=_written, padding=3, fontsize=9, color=_GREY)
    ax.set_yticks(range(len(results)), list(results))
    ax.margins(x=0.12)
    ax.invert_yaxis()


def _written(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
