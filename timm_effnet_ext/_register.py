"""Registers the models with timm: at once if timm is imported, else as soon as it is.

So `import timm_effnet_ext` alone stays free of timm and torch: the converter, which needs neither, starts at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader

_REGISTRY = "timm_effnet_ext.models.hucorz_efficientnet"


def when_timm_is_there() -> None:
    """Register now if timm is imported, else right after its import."""
    if "timm" in sys.modules:
        importlib.import_module(_REGISTRY)
    else:
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm:
    """Finds and loads timm as everyone else would, and registers after its code has run."""

    _loader: Loader

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)  # while the others are asked
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)  # whoever asks need not import it, and a failed import may be tried again
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self  # type: ignore[assignment]  # importlib.abc would cost 10 ms
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader  # what others see is timm's own loader
        self._loader.exec_module(module)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        importlib.import_module(_REGISTRY)
