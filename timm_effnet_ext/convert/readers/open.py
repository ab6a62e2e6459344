"""Whatever a path is -> an open Checkpoint: each framework's reader is asked in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint
from timm_effnet_ext.convert.readers.keras import in_tensorflow as keras_bundle
from timm_effnet_ext.convert.readers.pytorch import source as torch_source
from timm_effnet_ext.convert.readers.tensorflow.source import Source, open_bundle, recognise
from timm_effnet_ext.convert.readers.tensorflow.variables import format_of, variables
from timm_effnet_ext.convert.readers.unread import not_the_file, what_it_is
from timm_effnet_ext.errors import CheckpointFormatError, located


@contextmanager
def open_checkpoint(path: str | Path, *, crc: bool = True) -> Iterator[Checkpoint]:
    """Open a source; its tensors can be read while it is open. `crc=False` leaves checksums of tensors out.

    Raises:
        CheckpointFormatError: No checkpoint, or a damaged one.
    """
    path = Path(path)
    if problem := not_the_file(path):
        raise CheckpointFormatError(f"{path}: {problem}")
    if torch_source.recognise(path) is not None and recognise(path) is None:
        with torch_source.open_torch(path, crc=crc) as checkpoint:
            yield checkpoint
        return
    with ExitStack() as opened:
        with located(path):
            checkpoint = opened.enter_context(_opened(path, crc))
        yield checkpoint  # what is raised while it is open may be about something else


@contextmanager
def _opened(path: Path, crc: bool) -> Iterator[Checkpoint]:
    source = recognise(path)
    if source is not None:
        with _bundle(source, path, crc) as checkpoint:
            yield checkpoint
        return
    from timm_effnet_ext.convert.readers.keras.source import is_keras, open_keras  # h5py: only for those who need it

    if not is_keras(path):
        raise CheckpointFormatError(what_it_is(path))
    with open_keras(path, crc=crc) as checkpoint:
        yield checkpoint


@contextmanager
def _bundle(source: Source, path: Path, crc: bool) -> Iterator[Checkpoint]:
    with open_bundle(path, crc=crc) as bundle:
        with located(bundle.index_file):
            found = variables(bundle)
        kind, files = format_of(bundle), bundle.files()
        if keras_bundle.has_keras_names(found):
            checkpoint = keras_bundle.from_bundle(path, kind, files, found)
        else:
            checkpoint = Checkpoint(path, "tensorflow", kind, files, found)
        yield replace(checkpoint, notes=(*checkpoint.notes, *([source.note] if source.note else [])))
