"""Puts functions of ours in place of timm's public names, before a program binds them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any

import timm.task  # noqa: F401  binds `create_model` here, as timm's own: a teacher is neither trained nor progressive

Wrapper = tuple[Any, str, Callable[..., Any]]
"""A module, a name in it, and what is called instead: with what the name meant, then as that would be called."""


@contextmanager
def wrap_names(*wrappers: Wrapper) -> Iterator[None]:
    """Put the wrappers in place inside the context, for whoever takes the names there."""
    originals = [(module, name, getattr(module, name)) for module, name, _ in wrappers]
    for (module, name, original), (*_, wrapper) in zip(originals, wrappers, strict=True):
        # It says what it stands for, its module and its arguments: who wraps it again finds both.
        setattr(module, name, update_wrapper(partial(wrapper, original), original, updated=()))
    try:
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def name_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, with the defaults."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
