"""`convert`: a TensorFlow, Keras or PyTorch checkpoint to a verified folder that timm loads, and to the Hub.

`google` publishes and prints with the same functions.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from timm_effnet_ext.cli.arguments import PUBLISHING, READING, VERIFICATION, add_options, add_source, options_from
from timm_effnet_ext.cli.output import ProgressBar, hide_bars_of_the_hub, print_facts, print_json
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options, Progress, Report
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub_name import HubName, is_hub_name, parse_hub_name

if TYPE_CHECKING:  # the Hub's client is imported by those who need it
    from timm_effnet_ext.convert.publish import Published, Target


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
    from timm_effnet_ext.files.hub import is_private  # the Hub's client is slow to import

    if not args.private and is_private(source):
        raise EffNetExtError(
            f"{source}: is private. Publish what comes of it with --private, or convert it into a folder that everyone "
            "may see, and publish that"
        )


def convert_and_publish(
    args: argparse.Namespace, convert: Callable[[Path, Options, Progress], Report], repo_id: str | None
) -> None:
    """Convert into a folder, publish it if there is a repository, then print what came of it.

    Whatever is wrong with the options, the repository's name or the token is said before anything is converted.
    """
    options, target = options_from(args), None
    if repo_id is not None:
        from timm_effnet_ext.convert.publish import MAIN, Target

        target = Target(repo_id, args.private, args.create_pr, args.revision or MAIN)
        prepare_publishing(args)
    with closing(ProgressBar(quiet=args.quiet)) as progress, _folder_to_write(args.out) as out:
        report = convert(out, replace(options, repo_id=repo_id), progress)
        published, facts = (None, []) if target is None else _publish(out, target, progress, dry_run=args.dry_run)
    if args.json:
        print_json({**report.to_json(), "published": published and published._asdict()}, indent=None)
    else:
        print_facts((*_summary(report, args.out), *facts))


def prepare_publishing(args: argparse.Namespace) -> None:
    """Look for the token, and keep the Hub's client from drawing its bars where ours are not drawn.

    Raises:
        EffNetExtError: There is no token.
    """
    from timm_effnet_ext.convert.publish import token

    if not args.dry_run:
        token()
    hide_bars_of_the_hub(quiet=args.quiet)


@contextmanager
def _folder_to_write(out: Path | None) -> Iterator[Path]:
    """Give the folder that was asked for, or one for as long as publishing it takes."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="timm_effnet_ext-") as folder:
        yield Path(folder, "converted")


def _publish(
    folder: Path, target: Target, progress: Progress, *, dry_run: bool
) -> tuple[Published | None, list[tuple[str, str]]]:
    """Publish a folder, or say what would be published; return what came of it, and that in words."""
    from timm_effnet_ext.convert.publish import files_to_publish, publish

    if dry_run:
        where = f"{target.repo_id}, {'a pull request to ' if target.create_pr else ''}branch {target.revision}"
        files = [(file.path_in_repo, file.upload_info) for file in files_to_publish(folder)]
        lines = [f"{name}, {info.size:,} bytes, sha256 {info.sha256.hex()}" for name, info in files]
        return None, [("would push", where), *(("", line) for line in lines)]
    progress(f"publishing {target.repo_id}", 0, 1)
    done = publish(folder, target)
    state = "compared with the folder" if done.is_new else "was there already, the same files"
    visible = "private" if done.is_private else "public"
    return done, [("published", f"{done.url} ({visible}, commit {done.commit[:8]}, {state})")]


def _summary(report: Report, out: Path | None) -> Iterator[tuple[str, str]]:
    """Yield what a conversion came to, line by line; `out` is None where the folder is not kept."""
    yield "read", f"{report.origin}: {report.framework}, {report.format}"
    yield "found", report.reason
    yield (
        "weights",
        f"{report.weights}, {report.counts['used']} variables, {report.counts['from_ema']} of them averages",
    )
    yield "outputs", report.classes
    for proof in report.proofs:
        yield proof.kind, proof.detail
    for note in report.notes:
        yield "note", note
    state = f"{report.architecture}, {_verdict(report)}"
    yield ("wrote", f"{out}: {state}") if out else ("converted", state)


def _verdict(report: Report) -> str:
    """Return how far the result was verified: a plausible network was compared with nothing."""
    if not report.verified:
        return "NOT verified"
    return "verified" if any(proof.kind != "plausibility" for proof in report.proofs) else "plausible, not compared"
