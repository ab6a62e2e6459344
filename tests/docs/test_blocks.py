"""Every code block of the README and of docs/ runs, and prints what the page says; or a marker says why it does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import timm

import timm_effnet_ext  # noqa: F401  registers the models
from tests.archive_server import FileServer
from tests.docs.markdown import MARKER, PAGES, ROOT, blocks
from tests.docs.world import World, furnish
from tests.hub_server import LocalHub

ON_THE_HUB = ("hucorz_efficientnetv2_s", "hucorz_efficientnet_b0")  # random weights lie there under timm's names

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files of random weights by the repository that `pretrained=True` asks for them."""
    folder = tmp_path_factory.mktemp("weights")
    files = {}
    for name in ON_THE_HUB:
        file = folder / f"{name}.safetensors"
        safetensors.torch.save_file(timm.create_model(name).state_dict(), file)
        files[timm.get_pretrained_cfg(name).hf_hub_id] = file
    return files


@pytest.fixture
def world(
    tmp_path: Path,
    local_hub: LocalHub,
    server: FileServer,
    weights: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """A furnished folder, which is the current one, a Hub with weights, and Google's server with B0."""
    for repo_id, file in weights.items():
        local_hub.add(repo_id, {"model.safetensors": file})
    folder = tmp_path / "world"
    folder.mkdir()
    furnish(folder)
    local_hub.add("alice/flowers", {"model.keras": folder / "model.keras"})
    monkeypatch.chdir(folder)
    return World(folder)


@pages
def test_every_block_does_what_the_page_says(page: Path, world: World, subtests: pytest.Subtests) -> None:
    for block in blocks(page):
        if block.reason is None:
            with subtests.test(str(block)):
                world.run(block)


@pages
def test_every_marker_stands_above_a_block_and_gives_a_reason(page: Path) -> None:
    marked = [block for block in blocks(page) if block.reason is not None]
    assert [str(block) for block in marked if not block.reason] == []
    assert len(marked) == len(MARKER.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("    no-such-command --help\n", "page.md:3: exit code 127 of"),
        ("    false\n    true\n", "page.md:3: exit code 1 of"),
        ("```python\n1 / 0\n```", "division by zero"),
        ("```text\n$ echo one\ntwo\n```", "page.md:4: echo one\nprints\none\nnot\ntwo"),
        ("```text\n$ echo one; false\none\n```", "page.md:4: exit code 1 of"),
        ("```text\none\n```", "page.md:4: neither a command nor a transcript"),
        ("```yaml\nlr: 0.1\nmoduel: x\n```", "page.md:4: train.py has no moduel"),
        ("```pycon\n>>> 1 + 1\n3\n```", "Expected:\n    3\nGot:\n    2"),
        ("```pyi\ndef f(: ...\n```", "invalid syntax (page.md:4, line 1)"),
        ("```toml\na = 1\n```", "page.md:4: nothing runs 'toml' blocks"),
        ("- item\n\n  ```text\n  $ echo one\n  ```", "page.md:6: echo one\nprints"),
    ],
)
def test_a_block_that_is_wrong_is_told_with_its_line(block: str, problem: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Text.\n\n{block}\n")
    (found,) = blocks(page)
    with pytest.raises((AssertionError, ZeroDivisionError, SyntaxError)) as caught:
        World(tmp_path).run(found)
    assert problem in str(caught.value)


def test_what_is_volatile_or_abridged_need_not_be_the_same(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```text\n$ echo 'off by 1.2e-10'; seq 3; echo; echo end\noff by 3.4e-11\n…\nend\n```\n")
    World(tmp_path).run(*blocks(page))


def test_a_transcript_may_end_with_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```text\n$ echo 'reading …' >&2; echo 'error: no' >&2; exit 1\nerror: no\n$ echo on\non\n```\n")
    World(tmp_path).run(*blocks(page))


def test_blocks_are_found_beside_each_other_and_after_a_marker(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "    one\n\n    two\n\n```python\nthree\n```\n<!-- not run: why -->\n    four\n\n"
        "- item\n  <!-- not run: -->\n\n  ```text\n  five\n  ```\n\ntext\n    no code\n"
    )
    assert [(block.line, block.language, block.text, block.reason) for block in blocks(page)] == [
        (1, "sh", "one\n\ntwo\n", None),
        (6, "python", "three\n", None),
        (9, "sh", "four\n", "why"),
        (15, "text", "five\n", ""),
    ]
