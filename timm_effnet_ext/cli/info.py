"""`info`: the stage table of one model as its paper prints it."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from timm_effnet_ext.arch.rows import PREFIX, Arch, parse_model_name
from timm_effnet_ext.arch.summary import StageRow, Summary, summarize
from timm_effnet_ext.cli.arguments import number
from timm_effnet_ext.cli.output import print_json, print_table

_MAX_SIZE, _MAX_MULT = 10_000, 16  # beyond, it is a slip of the keyboard
_pixels = number("pixels", int, lambda n: 1 <= n <= _MAX_SIZE, f"must be 1 to {_MAX_SIZE} pixels, got {{value}}")
_multiplier = number(
    "multiplier", float, lambda x: 0 < x <= _MAX_MULT, f"must be above 0 and at most {_MAX_MULT}, got {{text}}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, and what it is scaled by."""
    parser.add_argument("model", metavar="MODEL", help=f"e.g. {PREFIX}efficientnetv2_s, or with a tag: NAME.in21k")
    parser.add_argument("--img-size", type=_pixels, metavar="PIXELS", help="default: the size that it is tested at")
    parser.add_argument("--width-mult", type=_multiplier, default=1.0, metavar="X", help="of the channels (default: 1)")
    parser.add_argument("--depth-mult", type=_multiplier, default=1.0, metavar="X", help="of the layers (default: 1)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> None:
    """Print the table of one model."""
    arch, tag = parse_model_name(args.model)
    use = _use_of(arch, tag)
    summary = summarize(
        arch,
        num_classes=use.num_classes,
        img_size=args.img_size or use.test_size,
        width_mult=args.width_mult,
        depth_mult=args.depth_mult,
    )
    if args.json:
        return print_json(_record(summary, use))
    _print(summary, use)


class _Use(NamedTuple):
    """What an architecture, or some weights of it, are made for; sizes in pixels."""

    num_classes: int
    train_size: int
    test_size: int


def _use_of(arch: Arch, tag: str) -> _Use:
    if not tag:
        return _Use(1000, arch.train_size, arch.eval_size)
    from timm_effnet_ext.models.hucorz_efficientnet import find_cfg  # imports torch: only for who asks about weights

    cfg = find_cfg(arch.name, tag)
    return _Use(cfg.num_classes, cfg.input_size[-1], (cfg.test_input_size or cfg.input_size)[-1])


def _record(summary: Summary, use: _Use) -> dict[str, object]:
    arch = summary.arch
    return {
        "name": PREFIX + arch.name,
        "img_size": summary.img_size,
        "train_size": use.train_size,
        "test_size": use.test_size,
        "drop_rate": arch.drop_rate,
        "activation": arch.act,
        "params": summary.params,
        "macs": summary.macs,
        "stages": [row._asdict() for row in summary.rows],
    }


def _print(summary: Summary, use: _Use) -> None:
    arch = summary.arch
    rows: list[tuple[object, ...]] = [
        (row.stage, row.operator, row.stride, row.channels, row.layers, _square(row.resolution), *_counts(row))
        for row in summary.rows
    ]
    rows.append(("", "total", "", "", sum(row.layers for row in summary.rows), "", *_counts(summary)))
    headers = ("stage", "operator", "stride", "channels", "layers", "output", "params", "MACs")
    print(f"{PREFIX}{arch.name}, images of {_square(summary.img_size)}\n")
    print_table(rows, headers, left=(0, 1))
    print(
        f"\ntrained at {_square(use.train_size)}, tested at {_square(use.test_size)}; "
        f"activation {arch.act}, dropout {arch.drop_rate:g}"
    )


def _counts(of: StageRow | Summary) -> tuple[str, str]:
    return _rounded(of.params), _rounded(of.macs)


def _rounded(count: int) -> str:
    """Return a count in four digits, e.g. "303.6 k"."""
    factor, unit = next(((f, u) for f, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if count >= f), (1, ""))
    return f"{count / factor:.4g} {unit}".rstrip()


def _square(size: int) -> str:
    return f"{size}x{size}"
