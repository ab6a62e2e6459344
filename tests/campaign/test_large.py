"""Checkpoints larger than the address space that is left: converted all the same, or refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from h5py import h5d, h5p, h5s, h5t

from tests._bundle_writer import field, masked, table
from tests.campaign.conduct import Answer, BeginPart, Campaign, finish, start
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.dialects.dialect import Entry, plan
from timm_effnet_ext.convert.dialects.keras import KERAS3_V2
from timm_effnet_ext.convert.dialects.tensorflow import TF1
from timm_effnet_ext.convert.pipeline import WEIGHTS_FILE

GIGABYTE = 10**9
# Runs one command with so many bytes of address space, 0 for no limit, and writes how many it had at most to a file.
LIMITED = """
import resource, sys
limit, report, *arguments = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
from timm_effnet_ext.__main__ import main
code = main(arguments)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
open(report, "w").write(str(int(status["VmPeak"].split()[0]) * 1024))
sys.exit(code)
"""
CASES: tuple[tuple[int, list[str]], ...] = ((1, ["--no-verify"]), (3, ["--no-verify"]), (1, []), (3, []))


def write_bundle(path: Path, entries: tuple[Entry, ...]) -> None:
    """Write a bundle of zeros with EMA twins and RMSProp slots; its data file is a hole."""
    names = [e.source + twin for e in entries for twin in ("", "/ExponentialMovingAverage", "/RMSProp", "/RMSProp_1")]
    shapes = dict(zip(names, (e.source_shape for e in entries for _ in range(4)), strict=True))
    pairs, at = {b"": field(1, 1) + field(3, field(1, 1))}, 0
    for name, shape in sorted(shapes.items()):
        size = 4 * math.prod(shape)
        dims = b"".join(field(2, field(1, dim)) for dim in shape)
        place = field(4, at) + field(5, size) + b"\x35" + _crc_of_zeros(size)
        pairs[name.encode()], at = field(1, 1) + field(2, dims) + place, at + size
    path.with_name(f"{path.name}.index").write_bytes(table(pairs.items()))
    _extend(path.with_name(f"{path.name}.data-00000-of-00001"), at)


@cache
def _crc_of_zeros(size: int) -> bytes:
    return masked(bytes(size)).to_bytes(4, "little")


def _extend(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(file.tell() + size)


def write_safetensors(path: Path, entries: tuple[Entry, ...]) -> None:
    """Write a header and a hole."""
    header, at = {}, 0
    for entry in entries:
        end = at + 4 * math.prod(entry.shape)
        header[entry.torch], at = {"dtype": "F32", "shape": entry.shape, "data_offsets": [at, end]}, end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    _extend(path, at)


def write_h5(path: Path, entries: tuple[Entry, ...]) -> None:
    """Write datasets that have a place in the file but were never filled."""
    create, link = h5p.create(h5p.DATASET_CREATE), h5p.create(h5p.LINK_CREATE)
    create.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5d.FILL_TIME_NEVER)
    link.set_create_intermediate_group(True)
    with h5py.File(path, "w") as file:
        for entry in entries:
            layer, _, leaf = entry.source.rpartition("/")
            space = h5s.create_simple(entry.source_shape)
            found = h5d.create(file.id, None, h5t.IEEE_F32LE, space, create)
            file.require_group(f"{layer}/{layer}")[f"{leaf}:0"] = h5py.Dataset(found)


def write_pth(path: Path, entries: tuple[Entry, ...]) -> None:
    torch.save({entry.torch: torch.zeros(entry.shape) for entry in entries}, path)


Write = Callable[[Path, tuple[Entry, ...]], None]
KINDS: dict[str, tuple[str, Write, Any, int]] = {
    "bundle": ("model.ckpt", write_bundle, TF1, 4),
    "safetensors": ("model.safetensors", write_safetensors, TF1, 1),
    ".h5": ("model.h5", write_h5, KERAS3_V2, 1),
    ".pth": ("model.pth", write_pth, TF1, 1),
}  # fmt: skip


def entries_of(dialect: Any, size: int) -> tuple[Entry, ...]:
    """Return the tensors of an EfficientNetV2-B0 as wide as `size` bytes of weights make it."""
    for eighths in range(1, 1000):
        entries = plan(ARCHS["efficientnetv2_b0"], dialect, num_classes=10, width_mult=eighths / 8, depth_mult=0.2)
        if sum(4 * math.prod(entry.shape) for entry in entries) >= size:
            return entries
    raise AssertionError(size)


@pytest.mark.parametrize("kind", KINDS)
def test_large(kind: str, campaign: Campaign, part: BeginPart, tmp_path: Path) -> None:
    name, write, dialect, copies = KINDS[kind]
    scale = GIGABYTE if campaign.is_whole else GIGABYTE // 20

    def convert(size: int, options: list[str], limit: int = 0) -> tuple[Answer, int, int]:
        """Return how a conversion ended, how many bytes it wrote, and how many it had mapped at most."""
        source, out, report = tmp_path / name, tmp_path / "out", tmp_path / "report"
        shutil.rmtree(out, ignore_errors=True)
        write(source, entries_of(dialect, size // copies))
        told = finish(start(["-c", LIMITED, limit, report, "convert", source, "-o", out, "--quiet", *options]))
        written = (out / WEIGHTS_FILE).stat().st_size if out.exists() else 0
        return told, written, int(report.read_text())

    with part(f"{kind} of 1 and 3 GB", "converted with 1 GB of addresses beyond the output's size") as found:
        for case in campaign.cases(len(CASES), 1):
            times, options = CASES[case]
            small, written, needed = convert(scale // 1000, options)
            assert small.code == 0, small.err
            told, *_ = convert(times * scale, options, needed - written + times * scale // copies + scale)
            found.count(f"{times} GB {options}", bool(told.code), told.problem)
