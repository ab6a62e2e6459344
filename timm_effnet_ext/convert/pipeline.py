"""A checkpoint on disk -> a verified folder that timm loads: the steps in their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm_effnet_ext.convert.records import Options, Report
from timm_effnet_ext.errors import CheckpointFormatError

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, RECORD_FILE = "model.safetensors", "config.json", "README.md", "conversion.json"


def convert(source: str | Path, out: str | Path, options: Options = Options()) -> Report:  # noqa: B008  immutable
    """Write the folder `out` from `source`; it is whole and verified, or as it was before.

    Raises:
        CheckpointFormatError: The source is damaged, foreign, or holds values that no model can have.
        NameMappingError: Its variables are no architecture's, or several.
        VerificationError: The result does not compute what the source computed.
    """
    raise NotImplementedError("in work on this branch")


def read_record(folder: str | Path) -> dict[str, Any]:
    """Return the `conversion.json` of a finished folder; its "verified" says whether it may be published.

    Raises:
        CheckpointFormatError: No folder that `convert` wrote.
    """
    path = Path(folder) / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointFormatError(f"{path}: not readable ({err}). Is {folder} a folder that convert wrote?") from err
    if not isinstance(record, dict) or not isinstance(record.get("verified"), bool):
        raise CheckpointFormatError(f"{path}: says nothing about verification. Convert the source again")
    return record
