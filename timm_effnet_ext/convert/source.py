"""A source, which is a path or a name on the Hub -> an open Checkpoint."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.convert.records import Progress
from timm_effnet_ext.files.hub_name import is_hub_name, parse_hub_name


def open_source(
    source: str | Path, *, crc: bool = True, progress: Progress = lambda step, done, total: None
) -> AbstractContextManager[Checkpoint]:
    """Open a path, or `hf-hub:USER/REPO[@REVISION][/PATH]`; its tensors can be read while it is open.

    `crc=False` leaves checksums of tensors out.

    Raises:
        CheckpointFormatError: No checkpoint, a damaged one, or several.
        EffNetExtError: It cannot be had from the Hub.
    """
    if not is_hub_name(source):
        return open_checkpoint(source, crc=crc)
    from timm_effnet_ext.convert.hub_source import open_repository  # the Hub's client is slow to import

    return open_repository(parse_hub_name(source), crc=crc, progress=progress)
