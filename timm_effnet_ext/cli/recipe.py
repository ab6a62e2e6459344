"""`recipe NAME > r.yaml`, `recipe --list`: recipes for `train.py -c`."""

from __future__ import annotations

import argparse

from timm_effnet_ext.cli.output import print_facts
from timm_effnet_ext.train import recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of a recipe, or the wish to see all."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", metavar="NAME", help="the recipe to print")
    what.add_argument("--list", action="store_true", help="list the recipes")


def run(args: argparse.Namespace) -> None:
    """Print a recipe as it is, or a line on each."""
    if args.list:
        print_facts((name, recipe.read_summary(name)) for name in recipe.list_names())
    else:
        print(recipe.read_text(args.name), end="")
