"""What every command shares: what errors of the machine are to the user, and what is logged."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.processes import python
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.errors import EffNetExtError

ALLOCATION = "[enforce fail at alloc_cpu.cpp:124] err == 0. Error code 12 (Cannot allocate memory)"  # torch's words


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 8 GiB"), RuntimeError(ALLOCATION)])
def test_too_little_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr("timm_effnet_ext.cli.list.run", run)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == f"error: not enough memory ({error})\n"


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("timm_effnet_ext.cli.list.run", run)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["list"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_cancelled_command_leaves_nothing_behind(number: int, code: int, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.cli import list as command
from timm_effnet_ext.files.storage import new_file, new_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
def run(args):
    with new_folder(Path("folder"), ()) as folder, new_file(Path("file")) as file:
        (folder / "half").write_text("")
        file.write_text("half")
        os.kill(os.getpid(), {int(number)})
command.run = run
raise SystemExit(main(["list"]))
"""
    assert python("-c", program, cwd=tmp_path).returncode == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["-v", "convert"], ["convert", "-v"]])
def test_a_nested_command_can_be_verbose_before_and_after_its_name(words: list[str]) -> None:
    with pytest.raises(EffNetExtError, match="resnet50: Google published no checkpoint"):
        main(["google", *words, "resnet50", "-o", "y"])


def test_what_the_hubs_client_says_is_said_once() -> None:
    program = """
import logging
from huggingface_hub.utils import logging as hub_logging
from timm_effnet_ext.__main__ import main
main(["list", "--json"])
hub_logging.get_logger("huggingface_hub.utils._http").warning("Retrying")
logging.getLogger("timm").warning("of timm")
"""
    assert python("-c", program).stderr.splitlines() == ["Retrying", "of timm"]
