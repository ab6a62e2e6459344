"""Label names: one a line or a JSON list, each of them once."""

from __future__ import annotations

from pathlib import Path

import pytest

from timm_effnet_ext.errors import CheckpointFormatError
from timm_effnet_ext.files.hub_format import read_label_names


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("l.txt", b"ant\n bee \ncat"),
        ("l.txt", b"\xef\xbb\xbfant\r\nbee\r\ncat\r\n"),
        ("l.json", b'["ant", "bee", "cat"]'),
    ],
)
def test_names_are_read(name: str, raw: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    assert read_label_names(tmp_path / name) == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("l.txt", b"", "line 1 is empty"),
        ("l.txt", b"ant\n\nbee", "line 2 is empty"),
        ("l.txt", b"ant\nbee\n\n", "line 3 is empty"),
        ("l.json", b'["ant", " "]', "entry 2 is empty"),
        ("l.json", b'{"0": "ant"}', "or a JSON list"),
        ("l.json", b"[1, 2]", "or a JSON list"),
        ("l.json", b"[", "not readable as JSON"),
        ("l.txt", b"ant\nbee\nant ", "'ant' is there twice, as 1 and 3"),
        ("l.txt", "ant\nbee".encode("utf-16"), r"not UTF-8 \(it is UTF-16\). Save it as UTF-8"),
        ("l.txt", "Käfer\nAmeise".encode("cp1252"), r"not UTF-8 .*0xe4 in position 1.*. Save it as UTF-8"),
    ],
)
def test_lists_that_are_none_say_why(name: str, raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(CheckpointFormatError, match=message):
        read_label_names(tmp_path / name)
