"""The README says what is so: its table of models is the registry's, its Python runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from timm_effnet_ext.__main__ import main

README = Path(__file__).parent.parent / "README.md"


def test_the_table_of_models_is_what_list_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--json"])
    rows = [
        f"| `{model['name']}` | {model['params'] / 1e6:.1f} | {model['macs'] / 1e9:.2f} | {model['train_size']} "
        f"| {model['test_size']} | {', '.join(model['weights'])} |"
        for model in json.loads(capsys.readouterr().out)
    ]
    assert re.findall(r"^\| `hucorz_.*$", README.read_text(encoding="utf-8"), re.MULTILINE) == rows


def test_every_linked_file_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).is_file()] == []
