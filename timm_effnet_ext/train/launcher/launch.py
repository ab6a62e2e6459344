"""Runs a program, timm's train.py for one, as `__main__` with our models registered and timm made progressive.

The program's own arguments are read as train.py reads them, to find where they set what a progressive plan sets.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import runpy
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.hosts import set_memory_budget
from timm_effnet_ext.train.progressive.plan import Plan, Spec
from timm_effnet_ext.train.runs import read_yaml

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
    if lost := find_replaced_model_kwargs(program.args):
        _logger.warning(f"--model-kwargs replaces all model_kwargs of the -c file, {', '.join(lost)} among them")
    plan = None if spec is None else _plan(spec, program.args)
    if memory_budget is not None:
        set_memory_budget(memory_budget)
    sys.argv = [program.target, *program.args, *([] if plan is None else make_options(plan))]
    if not program.is_module:
        _tell_of_another_timm(Path(program.target))
    logging.root.handlers.clear()  # a program starts with no handlers: ours would print its lines twice
    # These import timm: who asks for help need not wait.
    from timm_effnet_ext.train.launcher.classes import watch_classes
    from timm_effnet_ext.train.launcher.cost import record_costs
    from timm_effnet_ext.train.progressive.patch import make_progressive

    with watch_classes(), record_costs(), nullcontext() if plan is None else make_progressive(plan) as recorder:
        code = _run(program)
    if recorder is not None and not recorder.epochs and code == 0:
        raise EffNetExtError(
            f"{program.target}: nothing was progressive: it made no training loader with timm.data.create_loader"
        )
    return code


def _plan(spec: Spec, args: tuple[str, ...]) -> Plan:
    given = find_asked(args)
    model = given["model"].value if "model" in given else None
    plan = spec.plan(model if isinstance(model, str) else None)
    check_options(plan, given)
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


class Asked(NamedTuple):
    """The value that an option was given, and how that is spelled where it was given."""

    value: Any
    spelling: str


# What train.py is told of a plan: the strength and its option.
_STRENGTHS = {"mixup": "mixup", "cutmix": "cutmix", "dropout": "drop", "drop_path": "drop_path"}

# What goes with train.py's own image sizes, in whose place a plan stands, and the value that changes nothing.
_SIZES: Mapping[str, Any] = {
    "train_size_schedule": "progressive",  # `make_options` tells it so
    "train_batch_sizes": None,
    "train_size_probs": None,
    "train_size_schedule_spread": 0.65,
    "train_size_random_mix": 0.1,
    "variable_batch_loss_scale": "none",
}
_LISTS = {"train_batch_sizes": "+", "train_size_probs": "+", "model_kwargs": "*"}
_NAMES = ("model", "model_kwargs", "mixup_off_epoch", *_STRENGTHS.values(), *_SIZES)


class _Refused(Exception):
    """The program will refuse these arguments, in its own words."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Refused(message)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_FILE = _Parser(add_help=False)
_FILE.add_argument("-c", "--config")
_LINE = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
for _name in _NAMES:
    _LINE.add_argument(_option(_name), nargs=_LISTS.get(_name))


def find_asked(args: Sequence[str]) -> dict[str, Asked]:
    """Return by name what a command line asks train.py for, or else the file of its `-c`; options of this module alone.

    Raises:
        EffNetExtError: The file is not YAML.
        OSError: There is none.
    """
    config, on_line = _split(args)
    found = {}
    for name, value in (_read(config) if config else {}).items():
        found[name] = Asked(value, f"{name}: {value} in {config}")
    for name, value in on_line.items():
        found[name] = Asked(value, f"{_option(name)} {' '.join(value) if isinstance(value, list) else value}")
    return {name: given for name, given in found.items() if given.value is not None}


def find_replaced_model_kwargs(args: Sequence[str]) -> list[str]:
    """Return the names in the `model_kwargs` of the `-c` file that are lost, as `--model-kwargs` replaces all."""
    config, on_line = _split(args)
    if not config or "model_kwargs" not in on_line or not Path(config).is_file():
        return []
    in_file = _read(config).get("model_kwargs")
    kept = {word.partition("=")[0] for word in on_line["model_kwargs"]}
    return sorted(in_file.keys() - kept) if isinstance(in_file, dict) else []


def check_options(plan: Plan, given: Mapping[str, Asked]) -> None:
    """Raise `EffNetExtError` where options of the user's set what a plan sets, and to something else."""
    clashes = []
    for name, option in _STRENGTHS.items():
        values = plan.strengths(name)
        if values is not None and option in given and not _is_same(given[option].value, max(values)):
            own = f"{name}={','.join(f'{value:.3g}' for value in values)}"
            clashes.append(f"{given[option].spelling} beside {own} (write {name}=off, or leave {_option(option)} out)")
    off = given.get("mixup_off_epoch", Asked(0, ""))
    mixes = [name for name in ("mixup", "cutmix") if any(plan.strengths(name) or ())]
    if mixes and not _is_same(off.value, 0):
        clashes.append(f"{off.spelling} beside {' and '.join(mixes)} (give one number a stage, 0 for the last)")
    for option, neutral in _SIZES.items():
        if option in given and not _is_same(given[option].value, neutral):
            clashes.append(f"{given[option].spelling} beside the plan's sizes (leave {_option(option)} out)")
    if clashes:
        raise EffNetExtError(f"--progressive and options of the program set the same: {'; '.join(clashes)}")


def make_options(plan: Plan) -> list[str]:
    """Return what train.py must be told so that it mixes, drops and schedules at all."""
    told = ["--train-size-schedule", "progressive"]  # train.py then tells the loader its number of epochs
    for name, option in _STRENGTHS.items():
        values = plan.strengths(name)
        if values is not None:
            told += [_option(option), f"{max(values):g}"]
    return told


def _split(args: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Return the file of `-c`, and the options on the line by name: both as train.py's argparse finds them."""
    try:
        known, rest = _FILE.parse_known_args(args)
        return known.config, vars(_LINE.parse_known_args(rest)[0])
    except _Refused:
        return None, {}


def _read(config: str) -> dict[str, Any]:
    content = read_yaml(Path(config))
    return {name: content[name] for name in _NAMES if name in content} if isinstance(content, dict) else {}


def _is_same(value: Any, told: Any) -> bool:
    try:
        return f"{float(value):g}" == f"{told:g}"
    except (TypeError, ValueError):
        return str(value) == str(told)
