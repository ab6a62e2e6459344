"""Label names: one a line or a JSON list, each of them once."""

from __future__ import annotations

from pathlib import Path

import pytest

from timm_effnet_ext.convert.classes import choose_classes, read_label_names
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import CheckpointFormatError


@pytest.mark.parametrize(("name", "text"), [("l.txt", "ant\n bee \ncat"), ("l.json", '["ant", "bee", "cat"]')])
def test_names_are_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_label_names(tmp_path / name) == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "ant\n\nbee", "one name a line"),
        ("l.json", '{"0": "ant"}', "or a JSON list"),
        ("l.json", "[1, 2]", "or a JSON list"),
        ("l.json", "[", "not readable as label names"),
        ("l.txt", "ant\nbee\nant", "1 names are there twice, 'ant' first"),
    ],
)
def test_lists_that_are_none_say_why(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointFormatError, match=message):
        read_label_names(tmp_path / name)


@pytest.mark.parametrize(
    ("found", "framework", "written"),
    [(1000, "tensorflow", 1000), (1001, "tensorflow", 1000), (1001, "torch", 1001), (1001, "keras", 1001),
     (21841, "tensorflow", 21841), (21843, "tensorflow", 21843), (0, "tensorflow", 0)],
)  # fmt: skip
def test_only_tensorflows_1001_have_a_background(found: int, framework: str, written: int) -> None:
    assert choose_classes(found, framework, Options()).num_classes == written
