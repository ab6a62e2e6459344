"""`convert`: a TensorFlow, Keras or PyTorch checkpoint to a verified folder that timm loads, and to the Hub."""

from __future__ import annotations

import argparse
from functools import partial

from timm_effnet_ext.cli.arguments import PUBLISHING, READING, VERIFICATION, add_options, add_source
from timm_effnet_ext.cli.conversion import convert_and_publish
from timm_effnet_ext.cli.progress import hide_bars_of_the_hub
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub_name import HubName, is_hub_name, parse_hub_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to convert, where to, and how."""
    parser.epilog = "What Google published has a command of its own: `google`."
    add_source(parser)
    add_options(parser, "-o/--out", "--overwrite", "--json", "--quiet")
    add_options(
        parser.add_argument_group(READING),
        *("--weights", "--model", "--prefix", "--headless", "--label-names", "--multi-label", "--keep-background"),
        *("--license", "--timm-native"),
    )
    add_options(
        parser.add_argument_group("how images are prepared, where the file does not say it"),
        *("--mean", "--std", "--input-size", "--interpolation", "--crop-pct", "--crop-mode"),
    )
    add_options(parser.add_argument_group(VERIFICATION), "--reference", "--images")
    publishing = parser.add_argument_group(PUBLISHING, "Only what was verified is published.")
    add_options(publishing.add_mutually_exclusive_group(), "--no-verify", "--push-to-hub")
    add_options(publishing, "--private", "--create-pr", "--revision", "--dry-run")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> None:
    """Convert, publish if asked to, and print what came of it."""
    # argparse has a word for options that exclude each other, and none for these.
    if args.out is None and args.push_to_hub is None:
        args.usage_error("say where to: -o FOLDER or --push-to-hub USER/REPO")
    if args.push_to_hub is None and (args.private or args.create_pr or args.revision or args.dry_run):
        args.usage_error("--private, --create-pr, --revision and --dry-run belong to --push-to-hub")
    if is_hub_name(args.source):
        hide_bars_of_the_hub(quiet=args.quiet)
        if args.push_to_hub is not None:
            _check_source(args, parse_hub_name(args.source))
    convert_and_publish(args, partial(convert, args.source), args.push_to_hub)


def _check_source(args: argparse.Namespace, source: HubName) -> None:
    """Raise where publishing would replace the source, or show everyone what its owner keeps private."""
    if args.push_to_hub == source.repo_id:
        if not args.revision and not args.create_pr:
            raise EffNetExtError(
                f"{args.push_to_hub}: is the source, which would be replaced. Name another repository, a branch of "
                "this one (--revision), or propose it there (--create-pr)"
            )
        return
    from timm_effnet_ext.files.hub_files import is_private  # the Hub's client is slow to import

    if not args.private and is_private(source):
        raise EffNetExtError(
            f"{source}: is private. Publish what comes of it with --private, or convert it into a folder that everyone "
            "may see, and publish that"
        )
