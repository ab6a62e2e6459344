"""The part of `convert` that knows Google's checkpoints and the Hub: its options, and what they do."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from timm_effnet_ext.cli.output import print_json
from timm_effnet_ext.convert.google.archives import HOST, MIRROR_ENV, archives, find
from timm_effnet_ext.convert.records import Options, Progress
from timm_effnet_ext.errors import EffNetExtError, first_few

if TYPE_CHECKING:  # the Hub's client is imported by those who need it
    from timm_effnet_ext.hub.publish import Published, Target

LIST, ALL = "list", "all"


def add_publishing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for Google's checkpoints and for the Hub."""
    group = parser.add_argument_group(
        "Google's checkpoints and the Hub",
        f"Archives come from {HOST}, or from the address in {MIRROR_ENV} if that is set.",
    )
    group.add_argument(
        "--google",
        metavar="MODEL.TAG",
        help=f"in place of SOURCE: a checkpoint that Google published; {LIST!r} prints them, {ALL!r} is each of them",
    )
    group.add_argument(
        "--push-to-hub",
        metavar="USER/REPO",
        help="publish what was verified; with --google USER is enough: TIMM_EFFNET_EXT_HUB=USER finds it then",
    )
    group.add_argument("--private", action="store_true", help="make the repository private")
    group.add_argument("--create-pr", action="store_true", help="open a pull request instead of writing to the branch")
    group.add_argument(
        "--revision", metavar="BRANCH", help="branch to publish to, made if it is not there (default: main)"
    )
    group.add_argument("--dry-run", action="store_true", help="say what would be published, and publish nothing")


def usage_problem(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the combination of options, or None."""
    to_hub = args.push_to_hub is not None
    one = args.google not in (LIST, ALL)
    rules = (
        ((args.source is None) == (args.google is None), "give a SOURCE, or --google MODEL.TAG in its place"),
        (one and args.out is None and not to_hub, "say where to: -o FOLDER or --push-to-hub USER/REPO"),
        (args.google is not None and args.model is not None, "--model and --google name a model each"),
        (
            args.google == ALL and (not to_hub or "/" in args.push_to_hub or args.out is not None),
            f"--google {ALL} goes to an account: --push-to-hub USER, without REPO and without -o",
        ),
        (args.google == ALL and (args.create_pr or args.revision), f"--google {ALL} publishes on main"),
        (
            not args.verify and (args.reference is not None or args.images is not None),
            "--reference and --images are for verifying: leave out --no-verify",
        ),
        (to_hub and not args.verify, "--push-to-hub publishes what was verified: leave out --no-verify"),
        (
            not to_hub and any((args.private, args.create_pr, args.revision, args.dry_run)),
            "--private, --create-pr, --revision and --dry-run belong to --push-to-hub",
        ),
    )
    return next((problem for is_wrong, problem in rules if is_wrong), None)


def print_archives(as_json: bool) -> None:
    """Print Google's checkpoints."""
    if as_json:
        print_json([{**found._asdict(), "url": found.url} for found in archives().values()], indent=None)
        return
    from tabulate import tabulate  # slow to import

    rows = [(found.name, found.reported_top1, found.url) for found in archives().values()]
    print(tabulate(rows, headers=("MODEL.TAG", "top-1 (reported)", "archive"), floatfmt=".1f"))


def hide_bars(quiet: bool) -> None:
    """Keep the Hub's client from drawing its bars where ours are not drawn."""
    if quiet or not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()


def target_of(args: argparse.Namespace) -> Target | None:
    """Return where to publish, or None; whatever is wrong with it is said before anything is converted.

    Raises:
        EffNetExtError: No name for a repository, or no token.
    """
    if args.push_to_hub is None:
        return None
    from timm_effnet_ext.hub.publish import MAIN, Target, token

    repo_id = args.push_to_hub
    if args.google is not None and "/" not in repo_id:
        from timm_effnet_ext.hub.account import repo_id_for

        repo_id = repo_id_for(repo_id, find(args.google))
    if not args.dry_run:
        token()
    hide_bars(args.quiet)
    return Target(repo_id, args.private, args.create_pr, args.revision or MAIN)


@contextmanager
def folder_to_write(out: Path | None) -> Iterator[Path]:
    """Give the folder that was asked for, or one for as long as publishing it takes."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
        yield Path(folder, "converted")


def publish_folder(
    folder: Path, target: Target, progress: Progress, *, dry_run: bool
) -> tuple[Published | None, list[tuple[str, str]]]:
    """Publish a folder, or say what would be published; return what came of it, and that in words."""
    from timm_effnet_ext.hub.publish import files_to_publish, publish

    if dry_run:
        files = [(f"{file.name}, {file.size:,} bytes, sha256 {file.sha256}") for file in files_to_publish(folder)]
        where = f"{target.repo_id}, {'a pull request to ' if target.create_pr else ''}branch {target.revision}"
        return None, [("would push", where), *(("", text) for text in files)]
    progress(f"publishing {target.repo_id}", 0, 1)
    done = publish(folder, target)
    state = "compared with the folder" if done.is_new else "was there already, the same files"
    visible = "private" if done.is_private else "public"
    return done, [("published", f"{done.url} ({visible}, commit {done.commit[:8]}, {state})")]


def fill_account(args: argparse.Namespace, options: Options, progress: Progress) -> None:
    """Publish all of Google's checkpoints and print what became of each, also of a run that is interrupted.

    Raises:
        EffNetExtError: Some of them failed.
    """
    from tabulate import tabulate

    from timm_effnet_ext.hub.account import fill
    from timm_effnet_ext.hub.publish import token

    if not args.dry_run:
        token()
    hide_bars(args.quiet)
    outcomes = []
    try:
        for outcome in fill(
            args.push_to_hub, archives().values(), options, progress, private=args.private, dry_run=args.dry_run
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
