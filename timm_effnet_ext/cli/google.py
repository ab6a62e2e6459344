"""`google`: the checkpoints that Google published: listed, converted, published one by one or all of them."""

from __future__ import annotations

import argparse
from contextlib import closing
from functools import partial

from timm_effnet_ext.cli import add_command
from timm_effnet_ext.cli.arguments import PUBLISHING, READING, VERIFICATION, add_options, options_from
from timm_effnet_ext.cli.convert import convert_and_publish, prepare_publishing
from timm_effnet_ext.cli.output import ProgressBar, print_json
from timm_effnet_ext.convert.google.archives import HOST, MIRROR_ENV, archives, convert_archive, fill, find, repo_id_for
from timm_effnet_ext.errors import EffNetExtError, first_few

# What can be said of all checkpoints at once, and of one: each has classes of its own.
_ANY = ("--weights", "--license", "--timm-native")
_ONE = (*_ANY, "--label-names", "--keep-background")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be done with them, a command each."""
    parser.epilog = f"Archives come from {HOST}, or from the address in {MIRROR_ENV} if that is set."
    commands = parser.add_subparsers(title="commands", required=True)

    listing = add_command(commands, "list", "print the name, reported top-1 accuracy and archive of each checkpoint")
    add_options(listing, "--json")
    listing.set_defaults(act=_list)

    converting = add_command(commands, "convert", "convert a checkpoint to a folder that timm loads")
    _add_name(converting)
    add_options(converting, "-o/--out", required=True)
    add_options(converting, "--overwrite", "--json", "--quiet")
    add_options(converting.add_argument_group(READING), *_ONE)
    add_options(converting.add_argument_group(VERIFICATION), "--reference", "--images", "--no-verify")
    converting.set_defaults(act=_convert)

    publishing = add_command(commands, "publish", "convert a checkpoint and publish it on the Hub")
    _add_name(publishing)
    publishing.add_argument(
        "target",
        metavar="USER/REPO",
        help="USER alone is enough: TIMM_EFFNET_EXT_HUB=USER makes `pretrained=True` find it then",
    )
    add_options(publishing, "-o/--out", help="folder to write too (default: none is kept)")
    add_options(publishing, "--overwrite", "--json", "--quiet")
    add_options(publishing.add_argument_group(READING), *_ONE)
    add_options(publishing.add_argument_group(VERIFICATION), "--reference", "--images")
    add_options(publishing.add_argument_group(PUBLISHING), "--private", "--create-pr", "--revision", "--dry-run")
    publishing.set_defaults(act=_publish)

    filling = add_command(commands, "publish-all", "convert and publish all checkpoints but those that are there")
    filling.add_argument(
        "user", metavar="USER", type=_user, help="TIMM_EFFNET_EXT_HUB=USER makes `pretrained=True` find them"
    )
    add_options(filling, "--json", "--quiet")
    add_options(filling.add_argument_group(READING), *_ANY)
    add_options(filling.add_argument_group(VERIFICATION), "--images")
    add_options(filling.add_argument_group(PUBLISHING), "--private", "--dry-run")
    filling.set_defaults(act=_publish_all)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="MODEL.TAG", help="one of those that `google list` prints")


def _user(text: str) -> str:
    if "/" in text:
        raise argparse.ArgumentTypeError(f"{text}: expected USER alone; each checkpoint gets a repository of its own")
    return text


def run(args: argparse.Namespace) -> None:
    """Do what was asked for."""
    args.act(args)


def _list(args: argparse.Namespace) -> None:
    if args.json:
        print_json([{**found._asdict(), "url": found.url} for found in archives().values()], indent=None)
        return
    from tabulate import tabulate  # slow to import

    rows = [(found.name, found.reported_top1, found.url) for found in archives().values()]
    print(tabulate(rows, headers=("MODEL.TAG", "top-1 (reported)", "archive"), floatfmt=".1f"))


def _convert(args: argparse.Namespace) -> None:
    convert_and_publish(args, partial(convert_archive, find(args.name)), None)


def _publish(args: argparse.Namespace) -> None:
    archive = find(args.name)
    repo_id = args.target if "/" in args.target else repo_id_for(args.target, archive)
    convert_and_publish(args, partial(convert_archive, archive), repo_id)


def _publish_all(args: argparse.Namespace) -> None:
    """Publish all of them and print what became of each, also of a run that is interrupted.

    Raises:
        EffNetExtError: Some of them failed.
    """
    from tabulate import tabulate  # slow to import

    options = options_from(args)
    prepare_publishing(args)
    outcomes = []
    try:
        with closing(ProgressBar(quiet=args.quiet)) as progress:
            for outcome in fill(
                args.user, archives().values(), options, progress, private=args.private, dry_run=args.dry_run
            ):
                outcomes.append(outcome)
    finally:
        if args.json:
            print_json([outcome._asdict() for outcome in outcomes], indent=None)
        else:
            rows = [(outcome.name, outcome.status, outcome.detail) for outcome in outcomes]
            print(tabulate(rows, headers=("MODEL.TAG", "outcome", "where, or why not")))
    failed = [outcome.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise EffNetExtError(f"{len(failed)} of {len(outcomes)} checkpoints failed: {first_few(failed)}")
