"""What is shipped: both archives hold what they should, are the same bytes every time, and ask for what is imported."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from hatchling import build

from tests.test_imports import FILES, PACKAGE, imported
from timm_effnet_ext import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = (PACKAGE, "benchmarks", "tests", "scripts", "docs", ".github")
FILES_BESIDE = {
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml",
}  # fmt: skip
ADDED = {"PKG-INFO", ".gitignore"}  # by hatchling, to every sdist
OTHERWISE_NAMED = {"pillow": "PIL", "pyyaml": "yaml"}  # distribution -> module


def files_below(*folders: str) -> set[str]:
    """Return the files of folders of this repository, without what Python leaves there."""
    files = (file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}


def built(kind: str, tree: Path, folder: Path) -> Path:
    """Build the "sdist" or "wheel" of a source tree into `folder`."""
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)
        return folder / getattr(build, f"build_{kind}")(str(folder))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", ROOT, tmp_path_factory.mktemp("first") / "sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("first") / "wheel")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{PACKAGE}-{__version__}.dist-info/METADATA").decode())


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    info = f"{PACKAGE}-{__version__}.dist-info"
    records = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert held == files_below(PACKAGE) | records
    assert f"{PACKAGE}/py.typed" in held


def test_the_sdist_holds_what_its_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held - ADDED == files_below(*FOLDERS) | FILES_BESIDE


def test_both_are_the_same_bytes_from_another_folder_at_another_time(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / sdist.name.removesuffix(".tar.gz")
    for file in tree.rglob("*"):
        file.touch()
    assert built("wheel", tree, tmp_path / "wheel").read_bytes() == wheel.read_bytes()
    assert built("sdist", tree, tmp_path / "sdist").read_bytes() == sdist.read_bytes()


def required_modules(metadata: Message, extra: str = "") -> set[str]:
    """Return the modules of what an extra requires, or of what the core does."""
    lines = [line.partition(";") for line in metadata.get_all("Requires-Dist", [])]
    wanted = [extra] if extra else []
    names = {re.split(r"[^\w-]", line)[0] for line, _, marker in lines if re.findall(r"'(\w+)'", marker) == wanted}
    return {OTHERWISE_NAMED.get(name.lower(), name.replace("-", "_")) for name in names}


def test_the_core_requires_what_the_package_imports_and_nothing_else(metadata: Message) -> None:
    modules = {module.partition(".")[0] for file in FILES for module in imported(file)}
    foreign = modules - sys.stdlib_module_names - {PACKAGE}
    extras = required_modules(metadata, "plot") | required_modules(metadata, "onnx")
    assert foreign - extras == required_modules(metadata)


def test_every_module_can_be_imported_without_the_extras(metadata: Message) -> None:
    extras = sorted(required_modules(metadata, "plot") | required_modules(metadata, "onnx"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in FILES]
    code = (
        f"import importlib, sys; sys.modules.update(dict.fromkeys({extras}))\n"
        f"for name in {names}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_changelog_and_of_the_citation(metadata: Message) -> None:
    assert metadata["Version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = next(re.finditer(r"^## ([\d.]+) - ([\d-]+)$", changelog, re.MULTILINE)).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert version == citation["version"] == __version__
    assert date == str(citation["date-released"])


def test_the_package_index_shows_the_front_page_whole(wheel: Path, sdist: Path, metadata: Message) -> None:
    """No link leads into the repository, which the index does not have, and twine can render the rest."""
    description = str(metadata.get_payload())
    front_page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^#.*$", description, re.MULTILINE) == re.findall(r"^#.*$", front_page, re.MULTILINE)
    assert re.findall(r"\]\((?!https:)[^)]*\)", description) == []
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_licence_is_stated_and_ships(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
