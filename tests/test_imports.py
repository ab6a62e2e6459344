"""Which part of the package may import which: the arrows of the house, and what nobody imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "timm_effnet_ext"
ROOT = Path(__file__).parent.parent / PACKAGE
FILES = sorted(ROOT.rglob("*.py"))

# A part is a module or folder of the package; of `convert`, its folders are parts of their own, since readers know the
# records and the name engine of `convert`, and its steps know the readers.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "arch": set(),
    "layout": {"arch"},
    "identify": {"arch", "layout"},
    "summary": {"arch", "errors", "layout"},
    "photos": {"errors"},
    "hub_errors": set(),
    "storage": {"errors", "layout"},
    "layers": {"arch"},
    "freeze": set(),
    "speed": {"arch", "errors", "layers", "storage"},
    "loading": {"arch", "errors", "hub_errors", "identify", "storage"},
    "model": {"arch", "freeze", "layers", "loading", "speed"},
    "create": {"arch", "loading", "model"},
    "hucorz_efficientnet": {"arch", "create", "model"},
    "weights": {"arch", "errors"},
    "predict": {"arch", "errors", "hub_errors", "loading", "summary", "weights"},
    "cam": {"errors", "predict", "storage"},
    "convert.tensorflow": {"convert", "errors", "layout"},
    "convert.keras": {"arch", "convert", "convert.tensorflow", "errors", "layout"},
    "convert.pytorch": {"arch", "convert", "errors", "layout"},
    "convert": {
        "arch", "convert.keras", "convert.pytorch", "convert.tensorflow", "errors", "hucorz_efficientnet", "identify",
        "layout", "photos", "storage",
    },
    "convert.google": {"arch", "convert", "convert.tensorflow", "errors", "hub_errors", "hucorz_efficientnet"},
    "hub": {"arch", "convert", "convert.google", "errors", "hub_errors", "storage"},
    "train": {"arch", "errors", "model", "storage"},
    "_register": set(),
    "cli": {
        "arch", "cam", "convert", "convert.google", "errors", "hub", "layout", "photos", "predict", "speed", "storage",
        "summary", "train", "weights",
    },
    "__main__": {"cli", "errors"},
    "__init__": {"_register", "speed"},
}  # fmt: skip
STANDARD_LIBRARY_ONLY = {"arch", "errors", "identify", "layout", "summary", "_register"}
NEVER = {"tensorflow", "keras", "tf_keras", "torchvision", "onnx", "onnxruntime"}
PEERS_OF_THE_BENCH = {"torchvision", "onnx", "onnxruntime", "openvino"}


def imported(file: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            whole = node.module or ""
            yield from (f"{whole}.{alias.name}" for alias in node.names) if whole == PACKAGE else [whole]


def part(module: str) -> str:
    """Return the part that a dotted name below the package belongs to."""
    first, *rest = module.removeprefix(f"{PACKAGE}.").split(".")
    return f"convert.{rest[0]}" if first == "convert" and rest and (ROOT / "convert" / rest[0]).is_dir() else first


def part_of(file: Path) -> str:
    return part(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


@pytest.mark.parametrize("name", sorted({part_of(file) for file in FILES}))
def test_a_part_imports_what_its_arrows_say(name: str) -> None:
    ours = {
        part(module)
        for file in FILES
        if part_of(file) == name
        for module in imported(file)
        if module.startswith(f"{PACKAGE}.") and module != f"{PACKAGE}.__version__"
    }
    assert ours - {name} <= ARROWS[name]


def test_modules_have_no_cycle() -> None:
    """Not even inside `convert`, whose parts know each other; what a function imports is not followed."""
    names = {".".join((PACKAGE, *f.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__") for f in FILES}
    tops: dict[str, set[str]] = {}
    for file in FILES:
        module = ".".join((PACKAGE, *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        body = ast.parse(file.read_text(encoding="utf-8")).body
        found: set[str] = set()
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        tops[module] = (found & names) - {module, PACKAGE}
    while leaves := [module for module, needs in tops.items() if not needs & tops.keys()]:
        for module in leaves:
            del tops[module]
    assert tops == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nobody_imports_frameworks_or_private_names_of_timm(file: Path) -> None:
    modules = set(imported(file))
    allowed = PEERS_OF_THE_BENCH if part_of(file) == "speed" else set()
    assert not {module.split(".")[0] for module in modules} & (NEVER - allowed)
    assert not [module for module in modules if module.startswith("timm.") and "._" in module]


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ONLY))
def test_the_rows_need_the_standard_library_only(name: str) -> None:
    heavy = {"torch", "timm", "numpy", "safetensors", "huggingface_hub"}
    assert not {module.split(".")[0] for module in imported(ROOT / f"{name}.py")} & heavy
