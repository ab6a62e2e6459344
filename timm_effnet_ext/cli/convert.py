"""`convert`: a TensorFlow, Keras or PyTorch checkpoint to a verified folder that timm loads."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from timm_effnet_ext.cli.output import print_facts, print_json
from timm_effnet_ext.cli.progress import ProgressBar
from timm_effnet_ext.cli.publishing import (
    ALL,
    LIST,
    add_publishing_arguments,
    fill_account,
    folder_to_write,
    print_archives,
    publish_folder,
    target_of,
    usage_problem,
)
from timm_effnet_ext.convert.google.archives import convert_archive, find
from timm_effnet_ext.convert.pipeline import convert
from timm_effnet_ext.convert.records import Options, Report
from timm_effnet_ext.hub_format import CROP_MODES, INTERPOLATIONS, MAX_SIDE, PREPROCESSING
from timm_effnet_ext.label_names import read_label_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to convert, where to, and how."""
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, nargs="?", help="checkpoint file, prefix, folder or archive"
    )
    parser.add_argument("-o", "--out", metavar="FOLDER", type=Path, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that an earlier conversion wrote")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_reading_arguments(parser)
    add_preprocessing_arguments(parser)
    add_verification_arguments(parser)
    add_publishing_arguments(parser)
    parser.set_defaults(usage_error=parser.error)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a source is read and what is written of it."""
    group = parser.add_argument_group("what is read and written")
    group.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or as trained (default: ema)")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="the model that was trained, where the file fits several: efficientnet_b0 is timm's, with PyTorch's "
        "padding and epsilon, tf_efficientnet_b0 and hucorz_efficientnet_b0 have TensorFlow's",
    )
    group.add_argument("--prefix", help="what stands before the network's names, where the file holds several")
    group.add_argument("--label-names", metavar="FILE", type=Path, help="class names: one a line, or a JSON list")
    group.add_argument("--multi-label", action="store_true", help="each output is a class by itself (sigmoid)")
    group.add_argument("--keep-background", action="store_true", help="do not cut the first of 1001 classes")
    group.add_argument("--license", metavar="ID", help="licence of the weights for the card, e.g. apache-2.0")
    group.add_argument("--timm-native", action="store_true", help="name timm's own tf_* model, which needs no plugin")


def add_preprocessing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how images are prepared, in timm's words."""
    group = parser.add_argument_group("how images are prepared, where the file does not say it")
    group.add_argument("--mean", type=finite, nargs="+", metavar="X", help="of images of 0 … 1, one or one a channel")
    group.add_argument("--std", type=positive, nargs="+", metavar="X", help="of images of 0 … 1, one or one a channel")
    group.add_argument("--input-size", type=pixels, nargs=3, metavar="N", help="channels, height and width, 3 224 224")
    group.add_argument("--interpolation", choices=INTERPOLATIONS, metavar="NAME", help=", ".join(INTERPOLATIONS))
    group.add_argument("--crop-pct", type=positive, metavar="X", help="share of the image that the crop keeps")
    group.add_argument("--crop-mode", choices=CROP_MODES, metavar="NAME", help=", ".join(CROP_MODES))


def finite(text: str) -> float:
    """Return the number that an option gives."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, got {text}")
    return value


def positive(text: str) -> float:
    """Return the number above 0 that an option gives."""
    value = finite(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def pixels(text: str) -> int:
    """Return the number of channels or the side of an image that an option gives."""
    value = int(text)
    if not 1 <= value <= MAX_SIDE:
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_SIDE}, got {value}")
    return value


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
        prefix=args.prefix,
        label_names=None if args.label_names is None else read_label_names(args.label_names),
        multi_label=args.multi_label,
        pretrained_cfg={name: value for name in PREPROCESSING if (value := getattr(args, name, None)) is not None},
        keep_background=args.keep_background,
        reference=args.reference,
        images=args.images,
        verify=args.verify,
        timm_native=args.timm_native,
        license=args.license,
        overwrite=args.overwrite,
    )


def run(args: argparse.Namespace) -> None:
    """Convert, publish what was verified if asked to, then print what came of it."""
    problem = usage_problem(args)
    if problem:
        args.usage_error(problem)
    if args.google == LIST:
        print_archives(args.json)
        return
    options, target = options_from(args), None if args.google == ALL else target_of(args)
    with ProgressBar(quiet=args.quiet) as progress, folder_to_write(args.out) as out:
        if args.google == ALL:
            fill_account(args, options, progress)
            return
        if target is not None:
            options = replace(options, repo_id=target.repo_id)
        if args.google is not None:
            report = convert_archive(find(args.google), out, options, progress)
        else:
            report = convert(args.source, out, options, progress)
        published, facts = (None, []) if target is None else publish_folder(out, target, progress, dry_run=args.dry_run)
    if args.json:
        print_json({**report.to_json(), "published": published and published._asdict()}, indent=None)
    else:
        print_facts((*summary(report, args.out), *facts))


def summary(report: Report, out: Path | None) -> Iterator[tuple[str, str]]:
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
