"""Whatever a path is -> an open Checkpoint: each framework's reader is asked in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.readers.keras import in_tensorflow as keras_bundle
from timm_effnet_ext.convert.readers.keras.source import is_called_keras, is_keras, open_keras
from timm_effnet_ext.convert.readers.pytorch import source as torch_source
from timm_effnet_ext.convert.readers.tensorflow.source import Source, open_bundle, recognise
from timm_effnet_ext.convert.readers.tensorflow.variables import format_of, variables
from timm_effnet_ext.convert.readers.unread import not_the_file, what_it_is
from timm_effnet_ext.errors import CheckpointFormatError, located


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
            checkpoint = opened.enter_context(_reader(path, crc, is_local))
        yield checkpoint  # what is raised while it is open may be about something else


def _reader(path: Path, crc: bool, is_local: bool) -> AbstractContextManager[Checkpoint]:
    if problem := not_the_file(path):
        raise CheckpointFormatError(problem)
    if is_keras(path):
        return open_keras(path)
    if (source := recognise(path)) is not None:
        return _open_bundle(source, path, crc)
    if torch_source.recognise(path) is not None:
        return torch_source.open_torch(path, crc=crc, is_local=is_local)
    if is_called_keras(path):
        return open_keras(path)
    raise CheckpointFormatError(what_it_is(path))


@contextmanager
def _open_bundle(source: Source, path: Path, crc: bool) -> Iterator[Checkpoint]:
    with open_bundle(path, crc=crc) as bundle:
        with located(bundle.index_file):
            found = variables(bundle)
        kind, files = format_of(bundle), bundle.files()
        if keras_bundle.has_keras_names(found):
            checkpoint = keras_bundle.from_bundle(path, kind, files, found)
        else:
            checkpoint = Checkpoint(path, "tensorflow", kind, files, found)
        yield replace(checkpoint, notes=(*checkpoint.notes, *([source.note] if source.note else [])))
