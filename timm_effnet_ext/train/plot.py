"""Draws the curves of one or more runs of train.py over epochs, their stages shaded, or over what training took."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_effnet_ext.errors import EffNetExtError, first_few
from timm_effnet_ext.files.storage import new_file
from timm_effnet_ext.train.axes import AXES, EPOCH
from timm_effnet_ext.train.runs import Run, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)

# Okabe & Ito, Color Universal Design: told apart by people of every colour vision
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK, _GREY, _SHADE = "#222222", "#8a8a8a", "#0072B2"
_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": "#bbbbbb",
    "axes.labelcolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e6e6",
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.wspace": 0.04,
    "svg.hashsalt": "timm_effnet_ext",  # the same picture is the same file
}
_FEW = 12  # epochs: each is marked
_WIDE_RANGE = 50  # times from the smallest to the largest value: beyond it an axis is logarithmic


_TITLES = {
    "train_loss": "Training loss",
    "eval_loss": "Evaluation loss",
    "eval_top1": "Top-1 accuracy (%)",
    "eval_top5": "Top-5 accuracy (%)",
    "lr": "Learning rate",
}
"""Of the panels, by the column of summary.csv that they show."""


def save_plot(runs: Sequence[Run], path: Path, x: str = EPOCH) -> None:
    """Write the curves of `runs` over an axis of `AXES` to `path`, in the format of its suffix.

    Raises:
        EffNetExtError: matplotlib is not installed, or cannot write such a file; no run has a curve that is drawn; or
            where one lies on the axis is not known.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as err:
        raise EffNetExtError("plot needs matplotlib: pip install 'timm_effnet_ext[plot]'") from err
    with matplotlib.rc_context(_STYLE):
        figure = draw(runs, x)
        kinds = figure.canvas.get_supported_filetypes()
        kind = path.suffix.removeprefix(".").lower()
        if kind not in kinds:
            raise EffNetExtError(f"{path}: no picture format {path.suffix!r}; there are {', '.join(sorted(kinds))}")
        with new_file(path) as part:
            figure.savefig(part, dpi=160, metadata={"Date": None} if kind == "svg" else None)


def draw(runs: Sequence[Run], x: str = EPOCH) -> Figure:
    """Return the curves of `runs` as a figure of up to four panels."""
    from matplotlib.figure import Figure

    columns = _choose_columns(runs)
    places = list(map(AXES[x].place, runs))
    rows = (len(columns) + 1) // 2
    figure = Figure(figsize=(10, 1 + 3 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flat
    spans = _common_spans(runs) if x == EPOCH else ()
    for column, ax in zip(columns, axes, strict=False):
        _draw_panel(ax, column, runs, places, spans)
    for ax in axes[-2:]:
        ax.set_xlabel(AXES[x].label)
    for ax in axes[len(columns) :]:
        ax.remove()
    figure.suptitle(", ".join(dict.fromkeys(run.model for run in runs)), color=_INK, fontsize=13, x=0.01, ha="left")
    if len(runs) > 1 or runs[0].best is not None:
        figure.legend(
            axes[0].lines[: len(runs)], list(map(_label, runs)), loc="outside lower left", ncols=3, frameon=False
        )
    return figure


def _common_spans(runs: Sequence[Run]) -> Sequence[Span]:
    """Return the stages of the progressive runs; none where two runs differ in them, which one shade cannot show."""
    schedules = {run.spans for run in runs if run.spans}
    if len(schedules) > 1:
        _logger.warning("the runs differ in their stages, so none are shaded")
    return schedules.pop() if len(schedules) == 1 else ()


def _label(run: Run) -> str:
    if run.best is None:
        return run.name
    return f"{run.name}: best {run.metrics['eval_top1'][run.best]:.1f} % at epoch {run.epochs[run.best]}"


def _choose_columns(runs: Sequence[Run]) -> list[str]:
    """Return up to four columns that a run has: the learning rate where another is missing or top-5 says nothing."""
    columns = [column for column in _TITLES if any(column in run.metrics for run in runs)]
    top5 = [value for run in runs for value in run.metrics.get("eval_top5", ())]
    if top5 and min(top5) >= 99.95:
        columns.remove("eval_top5")
    if not columns:
        raise EffNetExtError(f"{first_few(run.name for run in runs)}: none of {', '.join(_TITLES)} is in summary.csv")
    return columns[:4]


def _draw_panel(
    ax: Axes, column: str, runs: Sequence[Run], places: Sequence[Sequence[float]], spans: Sequence[Span]
) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title(_TITLES[column], loc="left", pad=18 if spans else 8)
    for index, (run, x) in enumerate(zip(runs, places, strict=True)):
        values = run.metrics.get(column, [float("nan")] * len(run.epochs))
        _draw_run(ax, column, run, x, values, _COLORS[index % len(_COLORS)])
    if column.endswith("loss") and _is_wide(runs, column):
        ax.set_yscale("log")
    _shade(ax, spans)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_run(ax: Axes, column: str, run: Run, x: Sequence[float], values: Sequence[float], color: str) -> None:
    marker = "o" if len(values) <= _FEW else None
    ax.plot(x, values, color=color, linewidth=1.8, marker=marker, markersize=3, label=run.name)
    if run.best is not None and column.startswith("eval"):
        best = x[run.best], values[run.best]
        ax.plot(*best, "o", markersize=9, markerfacecolor="none", markeredgecolor=color, clip_on=False)


def _is_wide(runs: Sequence[Run], column: str) -> bool:
    values = [value for run in runs for value in run.metrics.get(column, ())]
    return min(values) > 0 and max(values) > _WIDE_RANGE * min(values)


def _shade(ax: Axes, spans: Sequence[Span]) -> None:
    """Shade the stages, darker for larger images, and write their size above the panel."""
    for index, span in enumerate(spans):
        left, right = span.first - 0.5, span.last + 0.5
        ax.axvspan(left, right, color=_SHADE, alpha=0.03 + 0.09 * index / max(len(spans) - 1, 1), linewidth=0)
        middle: dict[str, Any] = {"x": (left + right) / 2, "y": 1.02, "transform": ax.get_xaxis_transform()}
        ax.text(**middle, s=f"{span.size} px", ha="center", va="bottom", fontsize=8, color=_GREY)
    if spans:
        ax.margins(x=0)
