"""bundle.py takes what Keras wrote in TensorFlow's formats as it takes Keras' own files."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.convert._sources import said
from tests.convert.readers.keras._files import TOLERANCE, converted, error, folder, logits, outputs
from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, TensorEntry, Variables
from timm_effnet_ext.convert.readers.keras.in_tensorflow import METADATA_FILE, from_bundle, has_keras_names
from timm_effnet_ext.convert.readers.open import open_checkpoint
from timm_effnet_ext.convert.readers.tensorflow.source import open_bundle, recognise
from timm_effnet_ext.convert.readers.tensorflow.variables import variables
from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.files.hub_format import SINGLE_LABEL

SOURCES = ["keras2_nested_saved", "keras3_nested_saved", "keras2_nested_checkpoint"]


@contextmanager
def read(path: Path) -> Iterator[Checkpoint]:
    with open_bundle(recognise(path)) as bundle:
        found = variables(bundle)
        assert has_keras_names(found)
        yield from_bundle(path, "SavedModel", bundle.files(), found)


@pytest.mark.parametrize("name", SOURCES)
def test_our_model_computes_what_keras_did(name: str) -> None:
    images, wanted = outputs("keras2_nested" if "keras2" in name else "keras3_nested", "native")
    with read(folder() / name) as checkpoint:
        assert error(logits(converted(checkpoint), images, said(checkpoint, "preprocessing")), wanted) < TOLERANCE


def test_a_saved_model_of_keras_2_has_its_graph() -> None:
    images, wanted = outputs("keras2_nested", "native")
    with read(folder() / "keras2_nested_saved") as checkpoint:
        assert checkpoint.graph is not None
        assert error(checkpoint.graph.compute(checkpoint.graph.prepare(images)), wanted) < TOLERANCE
        assert checkpoint.statements[0].problem_type == SINGLE_LABEL
        assert said(checkpoint, "preprocessing")["input_size"] == (3, 64, 64)
        assert checkpoint.files[-1].name == METADATA_FILE


@pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables", "variables/variables.index", "packed.tgz"])
def test_it_has_it_whichever_part_of_it_is_named(part: str, tmp_path: Path) -> None:
    whole = shutil.copytree(folder() / "keras2_nested_saved", tmp_path / "whole")
    (whole / "saved_model.pb").write_bytes(b"a graph that nobody reads")
    with tarfile.open(whole / "packed.tgz", "w:gz") as tar:
        tar.add(folder() / "keras2_nested_saved", "net")
    with open_checkpoint(whole / part) as checkpoint:
        assert checkpoint.graph is not None
        assert [file.name for file in checkpoint.files][-1] == METADATA_FILE


@pytest.mark.parametrize("name", SOURCES[1:])
def test_others_say_that_they_have_none(name: str) -> None:
    with read(folder() / name) as checkpoint:
        assert checkpoint.graph is None
        assert checkpoint.notes[0].startswith("the file has no layer graph")


def test_names_of_googles_code_are_no_keras_names() -> None:
    entry = TensorEntry("a", "float32", (1,), Path("a"), lambda: np.zeros(1))
    assert not has_keras_names(Variables({"efficientnet-b0/stem/conv2d/kernel": entry}))


@pytest.mark.parametrize(
    ("edit", "message"),
    [(lambda data: b"", "says nothing of the model"), (lambda data: data[:2000], METADATA_FILE),
     (lambda data: data.replace(b'"class_name": "Functional"', b'"class_name": "Functional ', 1), "no usable JSON")],
)  # fmt: skip
def test_damaged_metadata_is_refused(edit, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(folder() / "keras2_nested_saved", path)
    metadata = path / METADATA_FILE
    metadata.write_bytes(edit(metadata.read_bytes()))
    with pytest.raises(CheckpointFormatError, match=message), read(path):
        pass
