"""docs/api.md is what the docstrings say, and they explain every argument of what the package offers."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import timm_effnet_ext
from tests.docs.api_page import PAGE, SECTIONS, find, make_page, methods

NAMES = [name for names in SECTIONS.values() for name in names]
EXPLAINED = {
    **{name: find(name) for name in NAMES},
    **{f"{name}.{method}": one for name in NAMES for method, one in methods(find(name)).items()},
}


def test_the_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), "`make api` writes what they say"


def test_all_that_the_package_offers_stands_on_the_page() -> None:
    assert set(timm_effnet_ext.__all__) == {name for name in NAMES if "." not in name}


def arguments(obj: Any) -> set[str]:
    """Return the names of the arguments of a function, or of what makes an object of a class."""
    if isinstance(obj, property) or (inspect.isclass(obj) and issubclass(obj, BaseException)):
        return set()
    named = (
        one
        for one in inspect.signature(obj).parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    )
    return {one.name for one in named} - {"self"}


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_argument_is_explained(name: str) -> None:
    text = inspect.getdoc(EXPLAINED[name]) or ""
    explained = {*re.findall(r"^ {4}(\w+): ", text, re.MULTILINE), *re.findall(r"`(\w+)[=`]", text)}
    assert arguments(EXPLAINED[name]) - explained == set()
