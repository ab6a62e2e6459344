"""Makes docs/api.md of the docstrings of what the package offers; as a program writes it: `make api`.

Tools that make Markdown of docstrings call things by the modules that they lie in, and link types that have no heading.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import FunctionType
from typing import Any

import timm_effnet_ext
from tests.processes import ROOT

PAGE = ROOT / "docs" / "api.md"

# Heading -> what the package offers, and with the modules that they lie in the classes of what that makes.
SECTIONS: Mapping[str, Sequence[str]] = {
    "Models": (
        "models.efficientnet.EfficientNet", "models.trunk.EfficientNetFeatures", "models.trunk.Trunk",
        "models.freeze.Freezable", "optimize_for_inference", "keep_freed_memory",
    ),
    "Convert": (
        "convert_checkpoint", "ConvertOptions", "convert.records.Report", "convert.records.Proof",
        "inspect_checkpoint", "convert.inspection.Inspection",
    ),
    "Predict": ("load_classifier", "predict.classifier.Classifier", "predict.classifier.Prediction", "draw_cam"),
    "Export": ("export_classifier", "ExportOptions", "export.write.Exported", "export.int8.Answers"),
    "Errors": ("EffNetExtError", "CheckpointFormatError", "NameMappingError", "VerificationError"),
}  # fmt: skip

_INTRODUCTION = """\
# Reference

<!-- `make api` writes this page from the docstrings. -->

Names without a module are imported from `timm_effnet_ext`. [In Python](python.md) shows them at work.
"""
_OFFERED = {attribute: name for name, (_, attribute) in timm_effnet_ext._ELSEWHERE.items()}
_PARTS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}
_HEAD = re.compile(rf"({'|'.join(_PARTS)}):")
_ITEM = re.compile(r"^ {4}(\*{0,2}\w+): ", re.M)
_FORMAT = (sys.executable, "-m", "ruff", "format", "--stdin-filename", str(PAGE), "-")  # stubs as `make fmt` has them


def make_page() -> str:
    """Return the page."""
    listed = (f"- {title}: {', '.join(_link(name) for name in names)}" for title, names in SECTIONS.items())
    sections = (
        part for title, names in SECTIONS.items() for part in (f"## {title}", *(describe(name) for name in names))
    )
    text = "\n\n".join([_INTRODUCTION + "\n" + "\n".join(listed), *sections]) + "\n"
    return subprocess.run(_FORMAT, input=text, capture_output=True, encoding="utf-8", cwd=ROOT, check=True).stdout


def find(name: str) -> Any:
    """Return what a name of `SECTIONS` stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(f"timm_effnet_ext.{module}") if module else timm_effnet_ext, attribute)


def methods(obj: Any) -> dict[str, Any]:
    """Return the public methods and properties that a class itself has and explains."""
    found = ((name, member) for name, member in vars(obj).items() if isinstance(member, FunctionType | property))
    return {name: member for name, member in found if member.__doc__ and not name.startswith("_")}


def describe(name: str) -> str:
    """Return what stands on the page of a name: its heading, a stub, and what the docstrings say."""
    obj, called = find(name), name.rpartition(".")[2]
    where = [f"In `timm_effnet_ext.{name.rpartition('.')[0]}`."] if "." in name else []
    parts = [f"### {called}", *where, _stub(obj, called), *_explained(obj)]
    for method, member in methods(obj).items():
        parts += [f"#### {called}.{method}", _stub(member, method), *_explained(member)]
    return "\n\n".join(parts)


def _link(name: str) -> str:
    called = name.rpartition(".")[2]
    return f"[{called}](#{called.lower()})"


def _stub(obj: Any, name: str) -> str:
    """Return how something is called and what is in it, as a stub file says it."""
    source = inspect.getsource(obj.fget if isinstance(obj, property) else obj)
    (node,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    node.name, node.decorator_list = name, [part for part in node.decorator_list if not isinstance(part, ast.Attribute)]
    if isinstance(node, ast.ClassDef):
        node.body = [part for part in node.body if isinstance(part, ast.AnnAssign) or _is_init(part)]
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            part.id = _OFFERED.get(part.id, part.id)
        if isinstance(part, ast.FunctionDef) or (part is node and not node.body):
            part.body = [ast.Expr(ast.Constant(...))]
    return f"```pyi\n{ast.unparse(ast.fix_missing_locations(node))}\n```"


def _is_init(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "__init__"


def _explained(obj: Any) -> Iterator[str]:
    """Yield the parts of a docstring as Markdown: paragraphs, lists of arguments, examples."""
    for paragraph in re.split(r"\n\n+", inspect.getdoc(obj) or ""):
        head, _, rest = paragraph.partition("\n")
        if _HEAD.fullmatch(head):
            yield f"**{_PARTS[head[:-1]]}**"
            yield _ITEM.sub(r"- `\1`: ", rest).replace("\n" + 8 * " ", "\n  ")
        else:
            yield f"```pycon\n{paragraph}\n```" if paragraph.startswith(">>> ") else paragraph


def main() -> None:
    """Write the page."""
    PAGE.write_text(make_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
