"""`convert`: a TensorFlow, Keras or PyTorch checkpoint to a verified folder that timm loads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from timm_effnet_ext.cli.facts import print_facts
from timm_effnet_ext.cli.progress import ProgressBar
from timm_effnet_ext.convert.classes import read_label_names
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options, Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to convert, where to, and how."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="checkpoint file, prefix, folder or archive")
    parser.add_argument("-o", "--out", metavar="FOLDER", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that an earlier conversion wrote")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_reading_arguments(parser)
    add_verification_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a source is read and what is written of it."""
    group = parser.add_argument_group("what is read and written")
    group.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights or as trained (ema)")
    group.add_argument("--model", metavar="NAME", help="architecture, where the file fits several")
    group.add_argument("--label-names", metavar="FILE", type=Path, help="class names: one a line, or a JSON list")
    group.add_argument("--keep-background", action="store_true", help="do not cut the first of 1001 classes")
    group.add_argument("--license", metavar="ID", help="licence of the weights for the card, e.g. apache-2.0")
    group.add_argument("--timm-native", action="store_true", help="name timm's own tf_* model, which needs no plugin")


def add_verification_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the result is verified."""
    group = parser.add_argument_group("verification")
    group.add_argument(
        "--reference", metavar="FILE.npz", type=Path, help="inputs and outputs of the source's framework"
    )
    group.add_argument("--images", metavar="FOLDER", type=Path, help="photos to verify with")
    group.add_argument("--no-verify", dest="verify", action="store_false", help="do not run the result")


def options_from(args: argparse.Namespace) -> Options:
    """Return the conversion's options from parsed arguments."""
    return Options(
        weights=args.weights,
        model=args.model,
        label_names=None if args.label_names is None else read_label_names(args.label_names),
        keep_background=args.keep_background,
        reference=args.reference,
        images=args.images,
        verify=args.verify,
        timm_native=args.timm_native,
        license=args.license,
        overwrite=args.overwrite,
    )


def run(args: argparse.Namespace) -> None:
    """Convert, then print what came of it."""
    with ProgressBar(quiet=args.quiet) as progress:
        report = convert(args.source, args.out, options_from(args), progress)
    if args.json:
        print(json.dumps(report.to_json()))
    else:
        print_facts(summary(report, args.out))


def summary(report: Report, out: Path) -> Iterator[tuple[str, str]]:
    """Yield what a conversion came to, line by line."""
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
    yield "wrote", f"{out}: {report.architecture}, {'verified' if report.verified else 'NOT verified'}"
