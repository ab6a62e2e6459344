"""Recipes for `train.py -c`: YAML files of this package, each with the source of its numbers at its top."""

from __future__ import annotations

import difflib
from pathlib import Path

from timm_effnet_ext.errors import EffNetExtError

_FOLDER = Path(__file__).parent / "recipes"
_SUFFIX = ".yaml"


def list_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(file.stem for file in _FOLDER.glob(f"*{_SUFFIX}"))


def read_text(name: str) -> str:
    """Return a recipe as YAML, its comments included.

    Raises:
        EffNetExtError: There is no such recipe.
    """
    if name not in list_names():
        near = difflib.get_close_matches(name, list_names(), n=3) or list_names()
        raise EffNetExtError(f"no recipe {name!r}; did you mean {', '.join(near)}?")
    return (_FOLDER / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def read_summary(name: str) -> str:
    """Return what a recipe is for: its first line."""
    return read_text(name).splitlines()[0].removeprefix("# ").removesuffix(".")
