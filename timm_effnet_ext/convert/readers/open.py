"""Whatever a path is -> an open Checkpoint: each framework's reader is asked in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.readers.keras.in_tensorflow import from_bundle, has_keras_names
from timm_effnet_ext.convert.readers.keras.source import is_called_keras, is_keras, open_keras
from timm_effnet_ext.convert.readers.pytorch.source import read_torch, weight_file
from timm_effnet_ext.convert.readers.tensorflow.bundle import Bundle
from timm_effnet_ext.convert.readers.tensorflow.source import Source, open_bundle, recognise
from timm_effnet_ext.convert.readers.tensorflow.variables import format_of, variables
from timm_effnet_ext.convert.readers.unread import not_the_file, what_it_is
from timm_effnet_ext.errors import CheckpointFormatError, located
from timm_effnet_ext.files.storage import is_utf8


@contextmanager
def open_checkpoint(path: str | Path, *, crc: bool = True, is_local: bool = True) -> Iterator[Checkpoint]:
    """Open a source; its tensors can be read while it is open. `crc=False` leaves checksums of tensors out.

    A source that was made elsewhere is not `is_local`: what it says of other files is not looked for on this machine.

    Raises:
        CheckpointFormatError: No checkpoint, or a damaged one.
    """
    path = Path(path)
    with ExitStack() as opened:
        with located(path):
            checkpoint = _open(path, crc, is_local, opened)
        yield checkpoint  # what is raised while it is open may be about something else


def _open(path: Path, crc: bool, is_local: bool, opened: ExitStack) -> Checkpoint:
    if not is_utf8(path):
        raise CheckpointFormatError("the path is no UTF-8, which torch and safetensors do not open. Rename it")
    if problem := not_the_file(path):
        raise CheckpointFormatError(problem)
    if is_keras(path):
        return opened.enter_context(open_keras(path))
    if (source := recognise(path)) is not None:
        return _of_bundle(opened.enter_context(open_bundle(source, crc=crc)), source, path)
    if (file := weight_file(path)) is not None:
        return read_torch(path, file, crc=crc, is_local=is_local)
    if is_called_keras(path):
        return opened.enter_context(open_keras(path))
    raise CheckpointFormatError(what_it_is(path))


def _of_bundle(bundle: Bundle, source: Source, path: Path) -> Checkpoint:
    with located(bundle.index_file):
        found = variables(bundle)
    kind, files = format_of(bundle), bundle.files()
    if has_keras_names(found):
        checkpoint = from_bundle(path, kind, files, found)
    else:
        checkpoint = Checkpoint(path, "tensorflow", kind, files, found)
    return replace(checkpoint, notes=(*checkpoint.notes, *([source.note] if source.note else [])))
