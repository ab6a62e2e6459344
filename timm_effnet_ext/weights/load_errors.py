"""What a failed load of weights says to a user, in one line."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from timm.models import load_state_dict

from timm_effnet_ext.errors import CheckpointFormatError, first_few, first_line
from timm_effnet_ext.files.hub import hub_explained
from timm_effnet_ext.hosts import argument_of_timm, is_damaged_archive, refused_objects

_ARCHIVE = b"PK\x03\x04"


def check_readable_checkpoint() -> None:
    """Open the file of `create_model(checkpoint_path=…)`, if that is what is calling.

    timm reads it once the model is made, and what it raises then goes past us. The values are not read for this.
    """
    path = argument_of_timm("create_model", "checkpoint_path")
    if path is None or not Path(path).is_file():
        return
    with explain_load_errors(str(path)):
        if str(path).endswith(".safetensors"):
            with safe_open(path, framework="pt"):
                pass
        else:
            _open_pickle(str(path))


def _open_pickle(path: str) -> None:
    """Rebuild what timm would load, but for the values: they stay in the file, if it is an archive as torch writes it.

    A file of torch before 1.6 is none, and is read; so is one that torch refuses, for timm's words of that.
    """
    with open(path, "rb") as file:
        is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # train.py's files hold one, and timm allows it
            torch.load(path, weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError:
        load_state_dict(path)
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                archive.open(name).close()  # what stands before the values is whole


@contextmanager
def explain_load_errors(model_name: str) -> Iterator[None]:
    """Turn the errors of safetensors, torch and the Hub client into one line that says what to do."""
    try:
        with hub_explained(model_name):
            yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, UnicodeDecodeError) as err:
        said = first_line(err)
        raise CheckpointFormatError(f"{model_name}: the weight file is cut or is no weight file ({said})") from err
    except RuntimeError as err:
        if is_damaged_archive(err):
            raise CheckpointFormatError(f"{model_name}: the weight file is cut or damaged ({first_line(err)})") from err
        refused = refused_objects(err)
        if refused is None:
            raise
        held = first_few(refused, 2) if refused else "other Python objects"
        raise CheckpointFormatError(
            f"{model_name}: the weight file is no plain state_dict: it is foreign, damaged, or holds {held}, which "
            "are never loaded. Save model.state_dict(), or convert it: python -m timm_effnet_ext convert FILE "
            "-o FOLDER"
        ) from err
