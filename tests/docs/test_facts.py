"""The pages say what is so: the README's table of models is the registry's, and links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT
from tests.docs.notebook import TOUR
from timm_effnet_ext.__main__ import main

REPORTED = r" \| [\d.–]+ / [\d.]+(?= \| [a-z])| / [\d.–]+(?= \|)"  # by others: top-1, and what stands behind a count


def test_the_table_of_models_is_what_list_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--json"])
    rows = [
        f"| `{model['name']}` | {model['params'] / 1e6:.1f} | {model['macs'] / 1e9:.2f} | {model['train_size']} "
        f"| {model['test_size']} | {', '.join(model['weights'])} |"
        for model in json.loads(capsys.readouterr().out)
    ]
    text = re.sub(REPORTED, "", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert re.findall(r"^\| `hucorz_.*$", text, re.MULTILINE) == rows


@pytest.mark.parametrize("page", [*PAGES, TOUR], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    for file, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / file if file else page
        assert target.is_file(), file
        assert not heading or heading in _anchors(target), f"{file}#{heading}"


def _anchors(page: Path) -> set[str]:
    """Return what a page's headings are called in links: lower case, a hyphen for each space, no other signs."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
