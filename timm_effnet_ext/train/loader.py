"""A loader of timm with something of ours around it."""

from __future__ import annotations

from typing import Any


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
