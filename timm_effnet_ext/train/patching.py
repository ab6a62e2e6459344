"""Puts functions of ours in place of timm's public names, before a program binds them, and loaders around its own."""

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


class WrappedLoader:
    """What a program of timm uses of a loader, passed on; who derives from it says what a pass gives."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    @property
    def mixup_enabled(self) -> bool:
        """Whether the loader mixes images; train.py sets it at `--mixup-off-epoch`."""
        return bool(self._loader.mixup_enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self._loader.mixup_enabled = enabled
