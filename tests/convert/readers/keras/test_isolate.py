"""isolate.py turns crashes and hangs into errors, and passes everything else on."""

from __future__ import annotations

import os
import signal

import pytest

from timm_effnet_ext.convert.readers.keras.isolate import isolated
from timm_effnet_ext.errors import CheckpointFormatError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def crash() -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def hang() -> bytes:
    while True:
        pass


def refuse() -> bytes:
    raise CheckpointFormatError("no good")


def test_the_result_comes_back_whole() -> None:
    assert isolated(lambda: b"x" * 1_000_000) == b"x" * 1_000_000


def test_it_runs_elsewhere() -> None:
    assert isolated(lambda: str(os.getpid()).encode()) != str(os.getpid()).encode()


@pytest.mark.parametrize(
    ("call", "message"),
    [(crash, "^the library that reads it crashed: it is damaged"),
     (hang, "^the library that reads it hangs: it is damaged"), (refuse, "^no good$")],
)  # fmt: skip
def test_what_goes_wrong_there_is_an_error_here(call, message: str) -> None:
    with pytest.raises(CheckpointFormatError, match=message):
        isolated(call, cpu_seconds=1)
