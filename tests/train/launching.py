"""The launcher in a process of its own, and the real train.py where there is one."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from tests.processes import python
from tests.small_models import SMALL

MODEL_KWARGS = ("--model-kwargs", *(f"{name}={value}" for name, value in SMALL.items()))
"""What makes a program's model the small one."""

TRAIN_PY = os.environ.get("TIMM_TRAIN_PY")
needs_train_py = pytest.mark.skipif(
    not TRAIN_PY, reason="TIMM_TRAIN_PY is not set: it is the path of train.py from timm's repository, in no package"
)


def launch(*args: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a program under the launcher."""
    return python("-m", "timm_effnet_ext", "run", *args, **kwargs)
