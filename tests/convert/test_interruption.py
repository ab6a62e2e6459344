"""Whatever stops a conversion, the target holds the old or the new, whole."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.convert._sources import tiny_bundle, tiny_variables
from tests.processes import environment
from timm_effnet_ext.convert.pipeline import FILES, WEIGHTS_FILE, read_record
from timm_effnet_ext.storage import sha256


def _start(source: Path, out: Path, *options: str, **kwargs: object) -> subprocess.Popen[str]:
    words = ["convert", str(source), "-o", str(out), "--no-verify", "--quiet", *options]
    command = [sys.executable, "-m", "timm_effnet_ext", *words]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )  # type: ignore[call-overload]


def _check_whole(out: Path, licenses: tuple[str, ...]) -> None:
    """Check that a folder is one conversion's, with nothing of another."""
    assert {path.name for path in out.iterdir()} == set(FILES)
    record = read_record(out)
    assert record["license"] in licenses
    assert record["weights_sha256"] == sha256(out / WEIGHTS_FILE)
    with safe_open(out / WEIGHTS_FILE, framework="np") as file:
        assert len(list(file.keys()))


def _kill_at_random(tmp_path: Path, times: int) -> None:
    source, out = tiny_bundle(tmp_path, tiny_variables(width_mult=0.5, depth_mult=1.0)), tmp_path / "out"
    started = time.monotonic()
    process = _start(source, out, "--license", "old")
    assert process.wait() == 0, process.communicate()[1]
    whole = time.monotonic() - started
    rng = random.Random(0)
    for _ in range(times):
        process = _start(source, out, "--license", "new", "--overwrite", start_new_session=True)
        # the first half is Python's start
        time.sleep(rng.uniform(0.4, 1.05) * whole)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _check_whole(out, ("old", "new"))


def test_killed_at_some_moments_the_target_is_whole(tmp_path: Path) -> None:
    _kill_at_random(tmp_path, 4)


@pytest.mark.slow
def test_killed_at_fifty_moments_the_target_is_whole(tmp_path: Path) -> None:
    _kill_at_random(tmp_path, 50)


def test_two_at_once_leave_one_whole(tmp_path: Path) -> None:
    source, out = tiny_bundle(tmp_path), tmp_path / "out"
    both = [_start(source, out, "--license", name) for name in ("one", "two")]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    assert sorted(code for _, code in ends) in ([0, 1], [0, 0])
    if [code for _, code in ends] != [0, 0]:
        (error,) = [text for text, code in ends if code]
        assert error.startswith(f"error: {out}: exists already")
        assert error.count("\n") == 1
    _check_whole(out, ("one", "two"))
    assert not list(tmp_path.glob(".out-*"))


def _limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source, out = tiny_bundle(tmp_path), tmp_path / "out"
    process = _start(source, out, preexec_fn=_limit_file_size)
    error = process.communicate()[1]
    assert process.returncode == 1
    assert error == f"error: [Errno 27] File too large: {str(out)!r}\n"
    assert {path.name for path in tmp_path.iterdir()} == {f"{source.name}.index", f"{source.name}.data-00000-of-00001"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_target_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path / "source")
    (tmp_path / "closed").mkdir(mode=0o500)
    process = _start(source, tmp_path / "closed" / "out")
    error = process.communicate()[1]
    assert (process.returncode, error.count("\n")) == (1, 1)
    assert "Permission denied" in error
