"""What a source is, told without reading its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.classes import choose_classes
from timm_effnet_ext.convert.config import model_config
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.convert.numerics import decide
from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.convert.selection import readings, why_none
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.layout import Shape


@dataclass(frozen=True)
class Reading:
    """One architecture that the names and shapes fit."""

    architecture: str
    dialect: str
    prefix: str
    width_mult: float
    depth_mult: float
    num_classes: int
    in_chans: int
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What a file holds; tensors are name -> (dtype, shape), under the names that the model's code gave them."""

    path: str
    framework: str
    format: str
    files: Mapping[str, int]  # name -> bytes
    readings: tuple[Reading, ...]  # the likeliest first; several compute the same, scaled from different rows
    problem: str | None  # why there is no reading, or what a conversion must be told
    outputs: str | None  # how many, how they become probabilities, what they are called
    problem_type: str | None
    label_names: tuple[str | None, ...] | None
    config: Mapping[str, Any]  # what config.json would say
    origins: Mapping[str, str]  # every entry of it, by its path -> who says so
    step: int | None
    has_ema: bool
    notes: tuple[str, ...]
    variables: Mapping[str, tuple[str, Shape]]
    ema: Mapping[str, tuple[str, Shape]]
    slots: Mapping[str, tuple[str, Shape]]
    counters: Mapping[str, tuple[str, Shape]]
    metadata: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for json.dump."""
        return asdict(self)


def inspect_source(path: str | Path) -> Inspection:
    """Return what a source is.

    Raises:
        CheckpointFormatError: No checkpoint, or a damaged one.
    """
    with open_checkpoint(path, crc=False) as checkpoint:  # their checksum would read every tensor
        found = checkpoint.variables
        candidates = readings(checkpoint)

        def table(entries: Mapping[str, Any]) -> dict[str, tuple[str, Shape]]:
            return {name: (entry.dtype, entry.shape) for name, entry in entries.items()}

        reading = _read(checkpoint, candidates[0]) if candidates else {"problem": why_none(checkpoint)}
        return Inspection(
            path=str(path),
            framework=checkpoint.framework,
            format=checkpoint.format,
            files={file.name: file.stat().st_size for file in checkpoint.files},
            readings=tuple(map(_reading, candidates)),
            **{**_NOTHING, **reading},
            step=found.step,
            has_ema=bool(found.ema),
            notes=checkpoint.notes,
            variables=table(found.model),
            ema=table(found.ema),
            slots=table(found.slots),
            counters=table(found.counters),
            metadata=found.metadata,
        )


_NOTHING: dict[str, Any] = dict.fromkeys(("problem", "outputs", "problem_type", "label_names"))
_NOTHING |= {"config": {}, "origins": {}}


def _read(checkpoint: Checkpoint, candidate: Candidate) -> dict[str, Any]:
    """Return what a conversion would say of the likeliest reading, or what stands in its way."""
    options = Options()
    try:
        numerics = decide(candidate, checkpoint.statements)
        classes = choose_classes(candidate.match.num_classes, checkpoint, options)
        config = model_config(checkpoint, candidate, numerics, classes, options)
    except EffNetExtError as err:
        return {"problem": str(err)}
    return {
        "problem": numerics.problem,
        "outputs": classes.text,
        "problem_type": classes.problem_type,
        "label_names": classes.named.names,
        "config": config.values,
        "origins": config.origins,
    }


def _reading(candidate: Candidate) -> Reading:
    match = candidate.match
    return Reading(
        architecture=match.arch_name,
        dialect=candidate.dialect.name,
        prefix=candidate.prefix,
        width_mult=match.width_mult,
        depth_mult=match.depth_mult,
        num_classes=match.num_classes,
        in_chans=match.in_chans,
        reason=candidate.reason,
    )
