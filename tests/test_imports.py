"""Which part of the package may import which: the arrows of the house, and what nobody imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = "timm_effnet_ext"
ROOT = Path(__file__).parent.parent / PACKAGE
FILES = sorted(ROOT.rglob("*.py"))

# A part is a folder of the package with the files that lie in it, or a file beside the folders. It imports parts that
# stand above it here: what must be understood first stands first.
ARROWS: dict[str, set[str]] = {
    "_register": set(),
    "errors": set(),
    "hosts": set(),
    "memory": set(),
    "__init__": {"_register"},
    "arch": {"errors"},
    "files": {"errors", "hosts"},
    "convert.checkpoint": {"arch", "errors"},
    "convert.dialects": {"arch", "errors"},
    "train": {"errors", "files"},
    "weights": {"arch", "errors", "files", "hosts"},
    "convert.readers.tensorflow": {"arch", "convert.checkpoint", "errors"},
    "models": {"arch", "errors", "files", "hosts", "weights"},
    "convert.readers.keras": {
        "arch", "convert.checkpoint", "convert.dialects", "convert.readers.tensorflow", "errors", "files",
    },
    "convert.readers.pytorch": {"arch", "convert.checkpoint", "convert.dialects", "errors", "files", "models"},
    "predict": {"arch", "errors", "files", "models", "weights"},
    "train.progressive": {"arch", "errors", "files", "hosts", "models", "train"},
    "convert.readers": {
        "convert.checkpoint", "convert.readers.keras", "convert.readers.pytorch", "convert.readers.tensorflow",
        "errors", "files",
    },
    "export": {"errors", "files", "models", "predict"},
    "train.launcher": {"errors", "files", "hosts", "train", "train.progressive"},
    "convert": {
        "arch", "convert.checkpoint", "convert.dialects", "convert.readers", "convert.readers.keras",
        "convert.readers.pytorch", "errors", "files", "models", "predict",
    },
    "convert.google": {"arch", "convert", "convert.readers.tensorflow", "errors", "files", "models"},
    "cli": {
        "arch", "convert", "convert.checkpoint", "convert.dialects", "convert.google", "errors", "export",
        "files", "models", "predict", "train", "train.launcher", "train.progressive",
    },
    "__main__": {"cli", "errors", "memory"},
}  # fmt: skip
STANDARD_LIBRARY_ONLY = {"arch", "errors", "memory", "_register"}
NEVER = {"tensorflow", "keras", "tf_keras", "torchvision", "openvino", "benchmarks", "tests"}
# What these modules import in functions alone: an extra of the package brings it.
EXTRAS = {"onnx", "onnxruntime", "onnxscript"}
ON_REQUEST = {"export.int8": {"onnx", "onnxruntime"}, "predict.onnx_file": {"onnxruntime"}}


def imported(file: Path, whole: bool = True) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, anywhere in it or at its top level alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if whole else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from names if (ROOT.parent / module.replace(".", "/")).is_dir() else [module]


def name_of(file: Path) -> str:
    """Return the dotted name of a module below the package, "" for the package itself."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def part(name: str) -> str:
    """Return the part that a dotted name below the package belongs to: its folder, or a module beside the folders."""
    if not name:
        return "__init__"
    folders = name if (ROOT / name.replace(".", "/")).is_dir() else name.rpartition(".")[0]
    return folders or name


def ours(modules: Iterable[str]) -> set[str]:
    """Return the names below the package among those of modules."""
    return {module.removeprefix(f"{PACKAGE}.") for module in modules if module.startswith(f"{PACKAGE}.")}


def files_of(name: str) -> list[Path]:
    """Return the files of a part."""
    return [file for file in FILES if part(name_of(file)) == name]


def test_every_part_has_its_arrows() -> None:
    assert {part(name_of(file)) for file in FILES} == ARROWS.keys()


@pytest.mark.parametrize("name", ARROWS)
def test_a_part_imports_what_its_arrows_say_and_nothing_less(name: str) -> None:
    found = {part(module) for file in files_of(name) for module in ours(imported(file)) - {"__version__"}}
    assert found - {name} == ARROWS[name]


def test_no_part_imports_one_that_stands_below_it() -> None:
    parts = list(ARROWS)
    assert [name for i, name in enumerate(parts) if not ARROWS[name] <= set(parts[:i])] == []


def test_modules_have_no_cycle() -> None:
    """Not even inside `convert`, whose parts know each other; what a function imports is not followed."""
    tops = {name_of(file): ours(imported(file, whole=False)) for file in FILES}
    while leaves := [module for module, needs in tops.items() if not (needs - {module}) & tops.keys()]:
        for module in leaves:
            del tops[module]
    assert tops == {}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nobody_imports_frameworks_or_private_names_of_timm(file: Path) -> None:
    modules = set(imported(file))
    assert not {module.split(".")[0] for module in modules} & NEVER
    asked, at_once = ({module.split(".")[0] for module in imported(file, whole)} & EXTRAS for whole in (True, False))
    assert (asked, at_once) == (ON_REQUEST.get(name_of(file), set()), set())
    assert not [module for module in modules if module.startswith("timm.") and "._" in module]


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ONLY))
def test_the_rows_need_the_standard_library_only(name: str) -> None:
    modules = {module.split(".")[0] for file in files_of(name) for module in imported(file)}
    assert modules - {PACKAGE} <= sys.stdlib_module_names
    assert ARROWS[name] <= STANDARD_LIBRARY_ONLY
