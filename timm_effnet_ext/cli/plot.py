"""`plot RUN… [--x AXIS] [-o FILE]`: the curves of runs of train.py as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from timm_effnet_ext.train.axes import AXES, EPOCH
from timm_effnet_ext.train.plot import save_plot
from timm_effnet_ext.train.runs import read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs and the picture."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of train.py")
    parser.add_argument(
        "--x",
        choices=AXES,
        default=EPOCH,
        help="what the curves are drawn over: epochs, or what training up to each took (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the picture, .png, .svg or .pdf (default: curves.png in the first RUN)",
    )


def run(args: argparse.Namespace) -> None:
    """Read the runs, draw them, and print where the picture is."""
    path = args.output or args.runs[0] / "curves.png"
    save_plot([read_run(folder) for folder in args.runs], path, args.x)
    print(path)
