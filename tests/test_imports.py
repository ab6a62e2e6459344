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

# A part is a module or folder of the package, and a folder in such a folder another: readers know the records and the
# name engine of `convert`, whose steps know the readers; `train` reads what `train.progressive` records.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "arch": {"errors"},
    "layout": {"arch"},
    "identify": {"arch", "layout"},
    "summary": {"arch", "layout"},
    "label_names": {"errors"},
    "outputs": set(),
    "photos": {"errors"},
    "hub_errors": {"errors"},
    "hub_format": {"errors"},
    "storage": {"errors"},
    "layers": {"arch"},
    "freeze": set(),
    "speed": {"layers"},
    "provenance": {"errors", "hub_errors", "hub_format", "storage"},
    "loading": {"arch", "errors", "identify", "layout", "provenance"},
    "load_errors": {"errors", "hub_errors", "provenance"},
    "model": {"arch", "freeze", "layers", "loading", "speed"},
    "create": {"arch", "load_errors", "loading", "model"},
    "hucorz_efficientnet": {"arch", "create", "errors", "model"},
    "predict": {"arch", "errors", "hub_format", "hucorz_efficientnet", "load_errors", "outputs", "provenance"},
    "cam": {"errors", "predict", "storage"},
    "bench": {"arch", "errors", "speed", "storage"},
    "convert.tensorflow": {"convert", "errors", "layout"},
    "convert.keras": {"arch", "convert", "convert.tensorflow", "errors", "layout", "outputs"},
    "convert.pytorch": {"arch", "convert", "errors", "hub_format", "hucorz_efficientnet", "label_names", "layout",
        "outputs",
    },
    "convert": {
        "arch", "convert.keras", "convert.pytorch", "convert.tensorflow", "errors", "hub_format", "hucorz_efficientnet",
        "identify", "layout", "outputs", "photos", "storage",
    },
    "convert.google": {"arch", "convert", "convert.tensorflow", "errors", "hub_errors", "hucorz_efficientnet"},
    "hub": {"arch", "convert", "convert.google", "errors", "hub_errors", "storage"},
    "train.progressive": {"arch", "errors", "model", "storage", "train"},
    "train": {"errors", "label_names", "storage", "train.progressive"},
    "cli": {
        "arch", "bench", "cam", "convert", "convert.google", "errors", "hub", "hucorz_efficientnet", "label_names", "layout",
        "photos",
        "predict", "storage", "summary", "train", "train.progressive",
    },
    "__main__": {"cli", "errors"},
    "_register": set(),
    "__init__": {"_register", "speed"},
}  # fmt: skip
STANDARD_LIBRARY_ONLY = {"arch", "errors", "identify", "layout", "outputs", "summary", "_register"}
NEVER = {"tensorflow", "keras", "tf_keras", "torchvision", "onnx", "onnxruntime"}
PEERS_OF_THE_BENCH = {"torchvision", "onnx", "onnxruntime", "openvino"}


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
    """Return the part that a dotted name below the package belongs to."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and (ROOT / first / rest[0]).is_dir() else first or "__init__"


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
    allowed = PEERS_OF_THE_BENCH if file in files_of("bench") else set()
    assert not {module.split(".")[0] for module in modules} & (NEVER - allowed)
    assert not [module for module in modules if module.startswith("timm.") and "._" in module]


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ONLY))
def test_the_rows_need_the_standard_library_only(name: str) -> None:
    modules = {module.split(".")[0] for module in imported(ROOT / f"{name}.py")}
    assert modules - {PACKAGE} <= sys.stdlib_module_names
    assert ARROWS[name] <= STANDARD_LIBRARY_ONLY
