"""What every part of the campaign is given, and the table at its end."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from typing import Any

import pytest
from tabulate import tabulate

from tests.campaign.conduct import BeginPart, Campaign, Part

SAMPLE_SEED = 1
_HEADERS = ("part", "tried", "refused in one line", "right", "findings", "seconds", "why right")


@pytest.fixture(scope="session")
def campaign(pytestconfig: pytest.Config) -> Campaign:
    """The whole campaign under `--campaign SEED`, else a sample of that of seed 1."""
    seed = pytestconfig.getoption("--campaign")
    return Campaign(SAMPLE_SEED if seed is None else seed, is_whole=seed is not None)


@pytest.fixture
def part(record_property: Callable[[str, Any], None]) -> BeginPart:
    """Begin a part: it goes on after a finding, fails with all of them at its end, and has a row in the table."""

    @contextmanager
    def begin(name: str, right: str) -> Iterator[Part]:
        found, started = Part(name, right), time.monotonic()
        yield found
        found.seconds = time.monotonic() - started
        record_property("part", asdict(found))
        assert found.tried
        assert not found.findings, "\n".join(found.findings)

    return begin


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was tried and what came of it."""
    seed = config.getoption("--campaign")
    if seed is None:
        return
    reports = [r for kind in ("passed", "failed", "error", "skipped") for r in terminalreporter.stats.get(kind, ())]
    rows = sorted(_row(report) for report in reports)
    terminalreporter.section(f"campaign, seed {seed}, {_versions()}, {date.today()}")
    total = ("in all", *(sum(row[column] for row in rows) for column in range(1, 6)), "")
    terminalreporter.write_line(tabulate([*rows, total], headers=_HEADERS, tablefmt="github", floatfmt=".0f"))


def _row(report: Any) -> tuple[Any, ...]:
    """Return the line of one test: a part of the campaign, or another test that belongs to it."""
    for part in (value for name, value in report.user_properties if name == "part"):
        counts = part["tried"], part["refused"], part["accepted"], len(part["findings"]), part["seconds"]
        return part["name"], *counts, part["right"]
    name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    if report.skipped:
        return name, 0, 0, 0, 0, 0, report.longrepr[2]
    return name, 1, 0, int(report.passed), int(report.failed), report.duration, ""


def _versions() -> str:
    import timm
    import torch

    import timm_effnet_ext

    ours = f"timm_effnet_ext {timm_effnet_ext.__version__}"
    return f"{ours}, torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
