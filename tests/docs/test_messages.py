"""docs/converting.md explains every message of the converter, and quotes none that there is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.markdown import ROOT

PACKAGE = ROOT / "timm_effnet_ext"
EXPLAINED = ("convert",)  # what the page is about
ANYTHING = "…"  # stands for a value, on the page as in what is read here


def test_every_message_is_explained_in_one_row() -> None:
    rows = quoted()
    explained = {f"{where}: {message}": [row for row in rows if any(quote in message for quote in row)]
                 for where, message in raised()}  # fmt: skip
    assert {message: found for message, found in explained.items() if len(found) != 1} == {}


def test_every_quote_is_of_a_message() -> None:
    said = "\n".join(text for _, tree in modules(PACKAGE) for node in ast.walk(tree) if (text := words(node)))
    assert [quote for row in quoted() for quote in row if quote not in said] == []


def test_no_quote_is_one_word_which_many_a_message_has() -> None:
    assert [quote for row in quoted() for quote in row if " " not in quote] == []


def test_a_message_is_read_with_its_values_left_out() -> None:
    (statement,) = ast.parse("raise E(f'{path}: {n} variables, ' f'expected {len(names)}') from err").body
    assert words(statement.exc.args[0]) == "…: … variables, expected …"  # type: ignore[attr-defined]


def quoted() -> list[list[str]]:
    """Return what each row of the table of messages quotes, word for word."""
    text = (ROOT / "docs" / "converting.md").read_text(encoding="utf-8")
    table = text.partition("## Messages\n")[2]
    cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    return [re.findall(r"`([^`]+)`", cell) for cell in cells]


def raised() -> Iterator[tuple[str, str]]:
    """Yield where our code raises a message with words of its own, and the message."""
    for folder in EXPLAINED:
        for file, tree in modules(PACKAGE / folder):
            for node in ast.walk(tree):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                    message = words(node.exc.args[0])
                    if re.search("[a-z]{2}", message) and ast.unparse(node.exc.func) != "AssertionError":
                        yield f"{file.relative_to(ROOT)}:{node.lineno}", message


def modules(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the files of a folder and what they parse to."""
    for file in sorted(folder.rglob("*.py")):
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def words(node: ast.AST) -> str:
    """Return the text of a string with its values left out, or nothing for what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) or ANYTHING for part in node.values)
    return ""
