"""What a source is, told without reading its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, TensorEntry
from timm_effnet_ext.convert.classes import Classes, choose_classes
from timm_effnet_ext.convert.config import Config, model_config
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.convert.numerics import decide
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.convert.selection import readings, why_none
from timm_effnet_ext.convert.source import open_source
from timm_effnet_ext.errors import EffNetExtError

NOTHING = Config({}, {}, ())


@dataclass(frozen=True)
class Inspection:
    """What a file holds, and what a conversion would make of its likeliest reading.

    Attributes:
        checkpoint: Its tensors, and what it says of itself. It is closed: tensors are described, and cannot be read.
        files: Sizes in bytes by name.
        step: The training step, where the file has one.
        candidates: The readings, the likeliest first; `match` is the architecture, `reason` a sentence. Of several all
            compute the same, scaled from different rows, or they are different networks of one file.
        problem: Why there is no reading, or what a conversion must be told.
        classes: How many outputs there are and what they mean (`text` is a sentence), where nothing is in the way.
        config: What `config.json` would say (`values`), and who says so (`origins`).
    """

    checkpoint: Checkpoint
    files: Mapping[str, int]
    step: int | None
    candidates: tuple[Candidate, ...]
    problem: str | None
    classes: Classes | None = None
    config: Config = NOTHING

    @property
    def name(self) -> str:
        """What the source is called."""
        return self.checkpoint.origin or str(self.checkpoint.path)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for json.dump; tensors are name -> (dtype, shape), under the names of the model's code."""
        found, classes = self.checkpoint.variables, self.classes
        tables = {"variables": found.model, "ema": found.ema, "slots": found.slots, "counters": found.counters}
        return {
            "path": self.name,
            "framework": self.checkpoint.framework,
            "format": self.checkpoint.format,
            "files": self.files,
            "readings": [_reading(candidate) for candidate in self.candidates],
            "problem": self.problem,
            "outputs": classes and classes.text,
            "problem_type": classes and classes.problem_type,
            "label_names": classes and classes.named.names,
            "config": self.config.values,
            "origins": self.config.origins,
            "step": self.step,
            "has_ema": bool(found.ema),
            "notes": self.checkpoint.notes,
            **{name: _described(table) for name, table in tables.items()},
            "metadata": found.metadata,
        }


def inspect_source(source: str | Path) -> Inspection:
    """Return what a source is, and what stands in the way of a conversion, which is no error here.

    Args:
        source: A path, or `hf-hub:USER/REPO[@REVISION][/PATH]`, which is downloaded.

    Raises:
        CheckpointFormatError: No checkpoint, or a damaged one.
        EffNetExtError: The Hub does not give it.
    """
    with open_source(source, crc=False) as checkpoint:  # their checksum would read every tensor
        files = {file.name: file.stat().st_size for file in checkpoint.files}
        candidates = tuple(readings(checkpoint))
        told = _told(checkpoint, candidates[0]) if candidates else {"problem": why_none(checkpoint)}
        return Inspection(checkpoint, files, checkpoint.variables.step, candidates, **told)


def _told(checkpoint: Checkpoint, candidate: Candidate) -> dict[str, Any]:
    """Return what a conversion would say of a reading, or what stands in its way."""
    options = Options()
    try:
        numerics = decide(candidate, checkpoint.statements)
        match = candidate.match
        classes = choose_classes(match.num_classes, checkpoint, options, has_head=match.head)
        config = model_config(checkpoint, candidate, numerics, classes, options)
    except EffNetExtError as err:
        return {"problem": str(err)}
    return {"problem": checkpoint.problem or numerics.problem, "classes": classes, "config": config}


def _described(entries: Mapping[str, TensorEntry]) -> dict[str, Any]:
    return {name: (entry.dtype, entry.shape) for name, entry in entries.items()}


def _reading(candidate: Candidate) -> dict[str, Any]:
    match = candidate.match._asdict()
    name = {"architecture": match.pop("arch_name"), "dialect": candidate.dialect.name, "prefix": candidate.prefix}
    return {**name, **match, "reason": candidate.reason}
