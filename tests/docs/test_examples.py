"""Every example in a docstring does what it shows, and what the package offers is there."""

from __future__ import annotations

import doctest
import importlib

import pytest

import timm_effnet_ext
from tests.test_imports import FILES, PACKAGE, name_of

MODULES = [".".join(filter(None, (PACKAGE, name_of(file)))) for file in FILES if ">>> " in file.read_text()]


@pytest.mark.parametrize("name", MODULES)
def test_an_example_prints_what_it_shows(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed


@pytest.mark.parametrize("name", timm_effnet_ext.__all__)
def test_what_is_offered_is_there(name: str) -> None:
    assert getattr(timm_effnet_ext, name).__doc__
    assert name in dir(timm_effnet_ext)


def test_nothing_else_is_made_up() -> None:
    with pytest.raises(AttributeError, match="'timm_effnet_ext' has no attribute 'nothing'"):
        timm_effnet_ext.nothing  # noqa: B018
