"""`list`: the models with their size and their pretrained weights."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from typing import Any

from timm_effnet_ext.arch.rows import ARCHS, PREFIX, Arch
from timm_effnet_ext.arch.summary import summarize
from timm_effnet_ext.cli.output import print_json, print_table
from timm_effnet_ext.errors import EffNetExtError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to list, and how."""
    parser.add_argument(
        "filter", nargs="?", default="*", metavar="FILTER", help="a part of the names to list, or wildcards: '*v2_[sm]'"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(args: argparse.Namespace) -> None:
    """Print one line a model, in the order of the papers; the default weights stand first."""
    text = args.filter.lower()
    pattern = text if any(wildcard in text for wildcard in "*?[") else f"*{text}*"
    archs = [arch for arch in ARCHS.values() if fnmatchcase(PREFIX + arch.name, pattern)]
    if not archs:
        raise EffNetExtError(f"no model fits {args.filter!r}; without a filter all are listed")
    records = [_record(arch) for arch in archs]
    if args.json:
        return print_json(records)
    headers = ("model", "Mparams", "GMACs", "train", "test", "weights")
    print_table(map(_cells, records), headers, left=(0, 5))


def _record(arch: Arch) -> dict[str, Any]:
    from timm_effnet_ext.models.hucorz_efficientnet import cfgs_by_tag  # imports torch: when the filter fits

    summary = summarize(arch)
    return {
        "name": PREFIX + arch.name,
        "params": summary.params,
        "macs": summary.macs,
        "train_size": arch.train_size,
        "test_size": arch.eval_size,
        "weights": [tag for tag, cfg in cfgs_by_tag(PREFIX + arch.name).items() if cfg.has_weights],
    }


def _cells(record: dict[str, Any]) -> tuple[Any, ...]:
    return (
        record["name"],
        f"{record['params'] / 1e6:.1f}",
        f"{record['macs'] / 1e9:.2f}",
        record["train_size"],
        record["test_size"],
        ", ".join(record["weights"]),
    )
