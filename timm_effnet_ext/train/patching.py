"""Puts functions of ours in place of timm's public names, before a program binds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm.task  # noqa: F401  binds `create_model` here, as timm's own: a teacher is neither trained nor progressive

Replacement = tuple[Any, str, Any]
"""A module, a name in it, and what the name is to mean."""


@contextmanager
def replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Make the replacements inside the context, for whoever takes the names there."""
    originals = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    for module, name, replacement in replacements:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)
