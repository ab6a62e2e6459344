"""A checkpoint on disk -> a verified folder that timm loads: the steps in their order."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from timm_effnet_ext.arch.layout import COUNTER_LEAF, NORM_LEAVES
from timm_effnet_ext.convert.card import model_card
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.classes import Classes, choose_classes
from timm_effnet_ext.convert.config import Config, model_config
from timm_effnet_ext.convert.dialects.dialect import Entry
from timm_effnet_ext.convert.records import Options, Progress, Proof, Report
from timm_effnet_ext.convert.selection import Selection, readings, select
from timm_effnet_ext.convert.source import open_source
from timm_effnet_ext.convert.writer import Slot, write_safetensors
from timm_effnet_ext.errors import CheckpointFormatError, located
from timm_effnet_ext.files.hub_format import CONFIG_FILE, WEIGHTS_FILE, to_json
from timm_effnet_ext.files.storage import check_target, new_folder, sha256

CARD_FILE, RECORD_FILE = "README.md", "conversion.json"
FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, RECORD_FILE)
_NO_PHOTOS = "no photos to verify with: pass --images FOLDER, or install scikit-learn, which brings two"


def convert(
    source: str | Path,
    out: str | Path,
    options: Options = Options(),  # noqa: B008  immutable
    progress: Progress = lambda step, done, total: None,
) -> Report:
    """Write the folder `out` from `source`; it is whole and verified, or as it was before.

    Tensors get timm's names, PyTorch's layouts (of TensorFlow's kernels (H, W, in, out) become (out, in, H, W)), and
    float32. The folder has `model.safetensors`, `config.json`, a card (`README.md`) and `conversion.json`, the report.

    Args:
        source: A path, or `hf-hub:USER/REPO[@REVISION][/PATH]`.
        out: The folder, which timm loads as `local-dir:FOLDER`.
        options: What the source does not say, and how to verify.
        progress: Called with what is being done, how many bytes or steps of it are done, and of how many.

    Raises:
        CheckpointFormatError: The source is damaged, foreign, or holds values that no model can have.
        NameMappingError: Its variables are no architecture's, or several.
        VerificationError: The result does not compute what the source computed.
        EffNetExtError: Something lies at `out` that must not be replaced, the options do not fit the source, or the
            Hub does not give it.
    """
    out = Path(out)
    check_target(out, FILES, overwrite=options.overwrite)
    with open_source(source, progress=progress) as checkpoint, ThreadPoolExecutor(2) as beside:
        hashes = beside.submit(lambda: {file.name: sha256(file) for file in checkpoint.files})
        with located(checkpoint.path):
            chosen = select(checkpoint, readings(checkpoint, headless=options.headless), options)
        match = chosen.candidate.match
        classes = choose_classes(match.num_classes, checkpoint, options, has_head=match.head)
        config = model_config(checkpoint, chosen.candidate, chosen.numerics, classes, options)
        slots = tuple(_slots(checkpoint.path, chosen, classes))
        with new_folder(out, FILES, overwrite=options.overwrite) as folder:
            write_safetensors(folder / WEIGHTS_FILE, slots, tell=partial(progress, "writing"))
            digest = beside.submit(sha256, folder / WEIGHTS_FILE)
            _write_json(folder / CONFIG_FILE, config.values)
            proofs = _verify(folder, checkpoint, classes, options, progress) if options.verify else ()
            report = _report(checkpoint, chosen, classes, config, proofs, hashes.result(), digest.result(), options)
            _write_json(folder / RECORD_FILE, report.to_json())
            card = model_card(report, options.repo_id)
            (folder / CARD_FILE).write_text(card, encoding="utf-8", errors="backslashreplace")
    return report


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


def _slots(path: Path, chosen: Selection, classes: Classes) -> Iterator[Slot]:
    """Yield what is written, in the order of computation; each layer's counter follows its variance.

    A tensor is read once, and checked when it is its turn: the folder appears only when it is whole.
    """
    for entry in chosen.entries:
        cut = classes.cut if entry.torch.startswith("classifier.") else 0
        shape = (entry.shape[0] - cut, *entry.shape[1:])
        yield Slot(entry.torch, "F32", shape, partial(_values, path, chosen, entry, cut))
        layer, _, leaf = entry.torch.rpartition(".")
        if leaf == NORM_LEAVES[-1]:
            yield Slot(f"{layer}.{COUNTER_LEAF}", "I64", (), partial(np.zeros, (), "<i8"))


def _values(path: Path, chosen: Selection, entry: Entry, cut: int) -> np.ndarray:
    """Return the values of a tensor in float32, if they are such as a trained model can have."""
    with located(path):
        values = entry.layout.apply(chosen.source[entry.source].read())[cut:]
        if values.dtype.kind != "f":
            raise CheckpointFormatError(f"{entry.torch} holds {values.dtype}, expected floating-point numbers")
        with np.errstate(over="ignore"):  # of float64 that float32 cannot hold: infinite, as is said below
            values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise CheckpointFormatError(f"{entry.torch} has {count} values that are not finite (of {values.size})")
        if entry.torch.endswith(NORM_LEAVES[-1]) and values.min() < 0:
            raise CheckpointFormatError(f"{entry.torch} has a negative variance ({values.min():.4g})")
        return values


def _verify(
    folder: Path, checkpoint: Checkpoint, classes: Classes, options: Options, progress: Progress
) -> tuple[Proof, ...]:
    """Run what was written, in timm: here torch is imported."""
    progress("verifying", 0, 1)
    from timm_effnet_ext.convert.verification import verify

    proofs = verify(
        folder,
        graph=checkpoint.graph.headless() if checkpoint.graph and options.headless else checkpoint.graph,
        reference=options.reference,
        images=options.images,
        cut=classes.cut,
    )
    progress("verifying", 1, 1)
    return proofs


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """Write an object for people to read: a line for each entry, and for each row of a list of objects."""
    lines = (f"  {json.dumps(key)}: {_json(value)}" for key, value in data.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _json(value: Any) -> str:
    is_table = isinstance(value, list | tuple) and value and isinstance(value[0], dict)
    rows = ",\n".join(f"    {to_json(row)}" for row in value) if is_table else ""
    return f"[\n{rows}\n  ]" if is_table else to_json(value)


def _report(
    checkpoint: Checkpoint,
    chosen: Selection,
    classes: Classes,
    config: Config,
    proofs: tuple[Proof, ...],
    hashes: dict[str, str],
    digest: str,
    options: Options,
) -> Report:
    return Report(
        origin=options.origin or checkpoint.origin or checkpoint.path.resolve().name,
        sources=hashes,
        framework=checkpoint.framework,
        format=checkpoint.format,
        dialect=chosen.candidate.dialect.name,
        reason=chosen.candidate.reason,
        architecture=config.values["architecture"],
        arch=chosen.candidate.match.arch_name,
        model_args=config.values.get("model_args", {}),
        pretrained_cfg=config.values["pretrained_cfg"],
        origins=config.origins,
        num_classes=classes.num_classes,
        classes=classes.text,
        problem_type=classes.problem_type,
        label_names=classes.named.names,
        weights=chosen.weights,
        step=checkpoint.variables.step,
        counts=chosen.counts,
        mapping=[*_mapping(chosen)],
        proofs=proofs,
        weights_sha256=digest,
        versions=_versions(),
        license=options.license,
        origin_version=options.origin_version,
        notes=(
            *checkpoint.notes,
            *chosen.notes,
            *classes.named.notes,
            *config.notes,
            *(() if proofs or not options.verify else (_NO_PHOTOS,)),
        ),
    )


def _mapping(chosen: Selection) -> Iterator[dict[str, Any]]:
    """Yield what each tensor is called here and there; `stored` is the key in the file, an EMA twin's perhaps.

    `perm` is of the stored axes, or of each expert's kernel, `kernel` being its shape, where the rows are such.
    """
    for entry in chosen.entries:
        stored = chosen.source[entry.source].name
        yield {
            "torch": entry.torch,
            "source": entry.source,
            "stored": stored,
            "perm": entry.layout.perm,
            **({"kernel": entry.layout.kernel} if entry.layout.kernel else {}),
            "shape": entry.shape,
        }


def _versions() -> dict[str, str]:
    """Return the versions of what had a part in it: torch and timm only where they ran the result."""
    used = (
        module for name in ("timm_effnet_ext", "numpy", "h5py", "torch", "timm") if (module := sys.modules.get(name))
    )
    return {"python": platform.python_version(), **{module.__name__: module.__version__ for module in used}}
