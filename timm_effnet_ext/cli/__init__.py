"""The subcommands of `python -m timm_effnet_ext`: one module each, with `add_arguments(parser)` and `run(args)`."""

from __future__ import annotations

import argparse
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: its module is imported only when it is asked for, so that none pays for another's imports."""

    name: str
    help: str
    computes: bool = False  # with networks, for which the process keeps freed memory


COMMANDS: tuple[Command, ...] = (
    Command("list", "list the models with their size and their pretrained weights, the default ones first"),
    Command("info", "print the stage table of a model as its paper does"),
    Command("predict", "classify photos, and show where the model looked", computes=True),
    Command("convert", "convert a TensorFlow, Keras or PyTorch checkpoint to a folder that timm loads", computes=True),
    Command("export", "write a classifier as ONNX or as a program of torch.export, verified", computes=True),
    Command("google", "list, convert and publish the checkpoints that Google published", computes=True),
    Command("inspect", "tell what a checkpoint is, without converting it"),
    Command("run", "run a timm program, train.py for one, with our models and progressive learning", computes=True),
    Command("recipe", "print a recipe for train.py -c, with the source of its numbers"),
    Command("plot", "draw the curves of runs of train.py"),
)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str
) -> argparse.ArgumentParser:
    """Add a subcommand, with what every one of them has."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,  # else a nested command would take back what was said before it
        help="more messages, and the traceback of an error",
    )
    return parser
