"""How far something is, on stderr: a bar on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def hide_bars_of_the_hub(*, quiet: bool = False) -> None:
    """Keep the Hub's client from drawing its bars where ours are not drawn."""
    from huggingface_hub.utils import disable_progress_bars  # slow to import

    if quiet or not sys.stderr.isatty():
        disable_progress_bars()


class ProgressBar:
    """Shows `progress(step, done, total)`, done and total in bytes."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._on_terminal = sys.stderr.isatty()
        self._step = ""
        self._bar: tqdm | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, step: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if step != self._step:
            self._start(step, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def _start(self, step: str, total: int) -> None:
        self._close()
        self._step = step
        if self._on_terminal:
            from tqdm import tqdm  # only where it is shown

            unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1000} if total > 1 else {}
            self._bar = tqdm(total=total, desc=step, file=sys.stderr, leave=False, **unit)
        else:
            print(f"{step} …", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
