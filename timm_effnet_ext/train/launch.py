"""Runs a program, timm's train.py for one, as `__main__` with our models registered and timm made progressive."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import runpy
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.schedule import Plan
from timm_effnet_ext.train.progressive.spec import Spec
from timm_effnet_ext.train.runs import read_yaml

FAILED = 1  # what Python itself exits with after a traceback


@dataclass(frozen=True)
class Program:
    """A script by path, or a module by name, and its arguments."""

    target: str
    args: tuple[str, ...] = ()
    is_module: bool = False

    def check(self) -> None:
        """Raise `EffNetExtError` if there is no such program."""
        if self.is_module:
            if not _is_module(self.target):
                raise EffNetExtError(f"no module {self.target!r}; is it installed?")
        elif not Path(self.target).is_file():
            raise EffNetExtError(f"no script {self.target!r}; for a module write -m {self.target}")


def launch(program: Program, spec: Spec | None = None, memory_budget: float | None = None) -> int:
    """Run `program` in this process and return its exit code.

    Args:
        program: What to run. Its errors are its own: they end with its traceback.
        spec: Progressive learning; timm's public names are wrapped before the program binds them.
        memory_budget: Share of the activations that `torch.compile` may keep for backward, 0 to 1.

    Raises:
        EffNetExtError: There is no such program, the plan does not fit it, or it never trained by the plan.
    """
    program.check()
    plan = None if spec is None else spec.plan(asked_model(program.args))
    if memory_budget is not None:
        _set_memory_budget(memory_budget)
    sys.argv = [program.target, *program.args, *([] if plan is None else options(plan))]
    logging.root.handlers.clear()  # a program starts with no handlers: ours would print its lines twice
    with _progressive(plan) as recorder:
        code = _run(program)
    if recorder is not None and not recorder.epochs and code == 0:
        raise EffNetExtError(
            f"{program.target}: nothing was progressive: it made no training loader with timm.data.create_loader"
        )
    return code


_OPTIONS = {"mixup": "--mixup", "cutmix": "--cutmix", "dropout": "--drop", "drop_path": "--drop-path"}


def options(plan: Plan) -> list[str]:
    """Return what train.py must be told so that it mixes, drops and schedules at all; they go behind the user's."""
    told = ["--train-size-schedule", "progressive"]  # train.py then tells the loader its number of epochs
    for name, option in _OPTIONS.items():
        values = plan.strengths(name)
        if values is not None:
            told += [option, f"{max(values):g}"]
    return told


def asked_model(args: Sequence[str]) -> str | None:
    """Return the model that train.py's arguments name, in its `-c` file or, before that, after `--model`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    parser.add_argument("-c", "--config")
    known, _ = parser.parse_known_args(args)
    if known.model is None and known.config:
        config = read_yaml(Path(known.config))
        model = config.get("model") if isinstance(config, dict) else None
        return model if isinstance(model, str) else None
    return known.model


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _set_memory_budget(budget: float) -> None:
    import torch._functorch.config as config  # where torch documents this setting

    config.activation_memory_budget = budget


def _progressive(plan: Plan | None) -> AbstractContextManager[Any]:
    if plan is None:
        return nullcontext()
    from timm_effnet_ext.train.progressive.patch import applied

    return applied(plan)


def _run(program: Program) -> int:
    """Run `program` as Python would, its traceback included."""
    try:
        if program.is_module:
            runpy.run_module(program.target, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(program.target).resolve().parent))
            runpy.run_path(program.target, run_name="__main__")
    except EffNetExtError:
        raise
    except Exception:
        sys.excepthook(*sys.exc_info())
        return FAILED
    return 0
