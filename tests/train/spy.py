"""A program for the launcher's tests: runs timm's train.py and writes what every step really trained on.

    spy.py LOG KILL_AT TRAIN_PY ARGS…

One JSON line a step. KILL_AT ends the process after so many steps as `kill -9` does (0: never).
"""

import json
import os
import runpy
import sys
from typing import Any

import numpy as np
import torch
from timm.data.auto_augment import RandAugment


class Spy:
    """Sees magnitudes, mixup α and dropout rates where timm and torch use them."""

    def __init__(self) -> None:
        self._seen: dict[str, set[float]] = {}
        self.steps: list[dict[str, Any]] = []
        self._wrap(RandAugment, "__call__", "randaug", lambda randaugment, image: randaugment.ops[0].magnitude)
        self._wrap(np.random, "beta", "alpha", lambda a, b, size=None: a)
        self._wrap(torch.nn.functional, "dropout", "dropout", _rate_in_training)

    def step(self, images: torch.Tensor) -> None:
        """Close a step that trained on `images`."""
        seen = {name: sorted(values) for name, values in sorted(self._seen.items())}
        self.steps.append({"size": images.shape[-1], "batch": len(images), **seen})
        self._seen = {}

    def _wrap(self, owner: Any, name: str, key: str, value_of: Any) -> None:
        original = getattr(owner, name)

        def spying(*args: Any, **kwargs: Any) -> Any:
            value = value_of(*args, **kwargs)
            if value is not None:
                self._seen.setdefault(key, set()).add(round(value, 6))
            return original(*args, **kwargs)

        setattr(owner, name, spying)


def _rate_in_training(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> float | None:
    return p if training else None


def main() -> None:
    """Run train.py under the spy."""
    from timm.task import ClassificationTask

    log, kill_at, script, *args = sys.argv[1:]
    spy = Spy()
    forward = ClassificationTask.forward

    def forward_and_log(task: Any, images: torch.Tensor, target: torch.Tensor) -> Any:
        result = forward(task, images, target)
        spy.step(images)
        with open(f"{log}.{os.environ.get('RANK', '0')}", "a") as file:
            file.write(json.dumps(spy.steps[-1]) + "\n")
        if len(spy.steps) == int(kill_at):
            os._exit(9)
        return result

    ClassificationTask.forward = forward_and_log
    _let_ddp_run_on_cpu()
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


def _let_ddp_run_on_cpu() -> None:
    """Drop `device_ids`, which train.py always gives and DistributedDataParallel refuses on a CPU."""
    ddp = torch.nn.parallel.DistributedDataParallel
    original = ddp.__init__
    ddp.__init__ = lambda self, *args, device_ids=None, **kwargs: original(self, *args, **kwargs)


if __name__ == "__main__":
    main()
