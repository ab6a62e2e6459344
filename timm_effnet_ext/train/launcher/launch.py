"""Runs a program, timm's train.py for one, as `__main__` with our models registered and timm made progressive."""

from __future__ import annotations

import importlib.util
import logging
import runpy
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.hosts import set_memory_budget
from timm_effnet_ext.train.launcher import arguments
from timm_effnet_ext.train.progressive.plan import Plan, Spec

_logger = logging.getLogger(__name__)

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
        EffNetExtError: There is no such program, the plan does not fit it or its options, it never trained by the plan,
            or its classes do not fit each other.
    """
    program.check()
    if lost := arguments.find_replaced_model_kwargs(program.args):
        _logger.warning(f"--model-kwargs replaces all model_kwargs of the -c file, {', '.join(lost)} among them")
    plan = None if spec is None else _plan(spec, program.args)
    if memory_budget is not None:
        set_memory_budget(memory_budget)
    sys.argv = [program.target, *program.args, *([] if plan is None else arguments.make_options(plan))]
    if not program.is_module:
        _tell_of_another_timm(Path(program.target))
    logging.root.handlers.clear()  # a program starts with no handlers: ours would print its lines twice
    from timm_effnet_ext.train.classes.watch import watch_classes  # imports timm: who asks for help need not wait
    from timm_effnet_ext.train.cost import record_costs

    with watch_classes(), record_costs(), _progressive(plan) as recorder:
        code = _run(program)
    if recorder is not None and not recorder.epochs and code == 0:
        raise EffNetExtError(
            f"{program.target}: nothing was progressive: it made no training loader with timm.data.create_loader"
        )
    return code


def _plan(spec: Spec, args: tuple[str, ...]) -> Plan:
    given = arguments.find_asked(args)
    model = given["model"].value if "model" in given else None
    plan = spec.plan(model if isinstance(model, str) else None)
    arguments.check_options(plan, given)
    return plan


def _tell_of_another_timm(script: Path) -> None:
    import timm

    used, beside = Path(timm.__file__).parent, script.resolve().parent / "timm"
    if beside.is_dir() and beside != used:
        _logger.warning(f"{script}: runs with timm {timm.__version__} of {used}, not with the one beside it")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False


def _progressive(plan: Plan | None) -> AbstractContextManager[Any]:
    if plan is None:
        return nullcontext()
    from timm_effnet_ext.train.progressive.patch import make_progressive

    return make_progressive(plan)


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
