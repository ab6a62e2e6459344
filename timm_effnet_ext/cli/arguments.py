"""The options of `convert` and `google`, each defined once; a command names those that it takes."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.files.hub_format import CROP_MODES, INTERPOLATIONS, MAX_SIDE, PREPROCESSING, read_label_names
from timm_effnet_ext.files.hub_name import HUB_PREFIX

_N = TypeVar("_N", int, float)

READING = "what is read and written"
VERIFICATION = "verification"
PUBLISHING = "publishing"


def number(name: str, read: Callable[[str], _N], is_allowed: Callable[[_N], bool], message: str) -> Callable[[str], _N]:
    """Return the type of an option that takes some numbers alone.

    Args:
        name: What argparse calls it in messages.
        read: Makes the number of a text; another such type, perhaps.
        is_allowed: Whether the option takes it.
        message: What is said if not, with `{text}` and `{value}`.
    """

    def parse(text: str) -> _N:
        value = read(text)
        if not is_allowed(value):
            raise argparse.ArgumentTypeError(message.format(text=text, value=value))
        return value

    parse.__name__ = name
    return parse


_finite = number("finite", float, math.isfinite, "must be a number, got {text}")
positive = number("positive", _finite, lambda x: x > 0, "must be above 0, got {text}")
_pixels = number("pixels", int, lambda n: 1 <= n <= MAX_SIDE, f"must be 1 to {MAX_SIDE}, got {{value}}")


def _flag(help: str) -> Mapping[str, Any]:
    return {"action": "store_true", "help": help}


_OF_IMAGES = "of images of 0 … 1, one or one a channel"
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "-o/--out": {"metavar": "FOLDER", "type": Path, "help": "folder to write"},
    "--overwrite": _flag("replace a folder that an earlier conversion wrote"),
    "--json": _flag("print JSON"),
    "--quiet": _flag("no progress"),
    "--weights": {"choices": ("ema", "raw"), "default": "ema", "help": "averaged or as trained (default: ema)"},
    "--model": {
        "metavar": "NAME",
        "help": "the model that was trained, where the file fits several: efficientnet_b0 is timm's, with PyTorch's "
        "padding and epsilon, tf_efficientnet_b0 and hucorz_efficientnet_b0 have TensorFlow's",
    },
    "--prefix": {"help": "what stands before the network's names, where the file holds several"},
    "--headless": _flag("leave the classifier out, whatever it is: the result gives features"),
    "--label-names": {"metavar": "FILE", "type": Path, "help": "class names: one a line, or a JSON list"},
    "--multi-label": _flag("each output is a class by itself (sigmoid)"),
    "--keep-background": _flag("do not cut the first of 1001 classes"),
    "--license": {"metavar": "ID", "help": "licence of the weights for the card, e.g. apache-2.0"},
    "--timm-native": _flag("name timm's own tf_* model, which needs no plugin"),
    "--mean": {"type": _finite, "nargs": "+", "metavar": "X", "help": _OF_IMAGES},
    "--std": {"type": positive, "nargs": "+", "metavar": "X", "help": _OF_IMAGES},
    "--input-size": {"type": _pixels, "nargs": 3, "metavar": "N", "help": "channels, height and width, 3 224 224"},
    "--interpolation": {"choices": INTERPOLATIONS, "metavar": "NAME", "help": ", ".join(INTERPOLATIONS)},
    "--crop-pct": {"type": positive, "metavar": "X", "help": "share of the image that the crop keeps"},
    "--crop-mode": {"choices": CROP_MODES, "metavar": "NAME", "help": ", ".join(CROP_MODES)},
    "--reference": {
        "metavar": "FILE.npz", "type": Path, "help": "inputs and outputs of the source's framework",
    },
    "--images": {"metavar": "FOLDER", "type": Path, "help": "photos to verify with"},
    "--no-verify": {"dest": "verify", "action": "store_false", "help": "do not run the result"},
    "--push-to-hub": {"metavar": "USER/REPO", "help": "publish what was verified"},
    "--private": _flag("make the repository private"),
    "--create-pr": _flag("open a pull request instead of writing to the branch"),
    "--revision": {"metavar": "BRANCH", "help": "branch to publish to, made if it is not there (default: main)"},
    "--dry-run": _flag("say what would be published, and publish nothing"),
}  # fmt: skip


def add_source(to: argparse._ActionsContainer) -> None:
    """Add what is read, which is no path where it lies on the Hub."""
    to.add_argument(
        "source",
        metavar="SOURCE",
        help=f"{HUB_PREFIX}USER/REPO[@REVISION][/FILE] on the Hub, or a checkpoint's file, prefix, folder or archive",
    )


def add_options(to: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Add options to a parser, or to a group of one."""
    for name in names:
        to.add_argument(*name.split("/"), **{**_OPTIONS[name], **changes})


def options_from(args: argparse.Namespace) -> Options:
    """Return how to convert; what a command has no option for stays as it is by itself.

    Raises:
        EffNetExtError: The options contradict each other, or the class names cannot be read.
    """
    given = vars(args)
    options = {field.name: given[field.name] for field in fields(Options) if field.name in given}
    if options.get("label_names") is not None:
        options["label_names"] = read_label_names(options["label_names"])
    cfg = {name: given[name] for name in PREPROCESSING if given.get(name) is not None}
    return Options(**options, pretrained_cfg=cfg)
