"""`run [--progressive SPEC] SCRIPT.py ARGS…`: a timm program with our models, and progressive learning."""

from __future__ import annotations

import argparse

from timm_effnet_ext.train.launcher.launch import Program, launch
from timm_effnet_ext.train.progressive.plan import Spec, parse

_EPILOG = """\
SPEC is a preset, settings, or both: "auto", "google batch=grow", "paper:efficientnetv2_s mixup=off",
"sizes=128,185,242,300 randaug=5:15 mixup=0:0.2 dropout=0.1:0.3". A setting is first:last, one number a
stage, or off (left to the program). Settings: sizes, randaug, mixup, cutmix, dropout, drop_path, batch=grow.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the launcher's own options and the program, which takes the rest of the line."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--progressive", metavar="SPEC", type=_spec, help="progressive learning of EfficientNetV2")
    parser.add_argument(
        "--memory-budget",
        metavar="X",
        type=fraction,
        help="share of the activations that torch.compile keeps for backward, 0 to 1 (default: torch's)",
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="PROGRAM is a module, as after `python -m`")
    parser.add_argument("program", metavar="PROGRAM", help="path of a script, or with -m the name of a module")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARGS", help="the program's own, all of them")


def run(args: argparse.Namespace) -> int:
    """Run the program; its exit code is ours."""
    return launch(Program(args.program, tuple(args.args), args.is_module), args.progressive, args.memory_budget)


def _spec(text: str) -> Spec:
    try:
        return parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def fraction(text: str) -> float:
    """Return the share that an option gives; argparse has its name in messages."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number
