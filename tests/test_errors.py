"""What an error says is one line of plain text, whatever foreign words are in it, and says once which file is meant."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from timm_effnet_ext.errors import (
    CheckpointFormatError,
    EffNetExtError,
    NameMappingError,
    first_few,
    first_line,
    located,
    plain,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Grüße, 漢字", "Grüße, 漢字"),
        ("\x1b[1mdo\x1b[0m this", "do this"),
        ("\x1b[38;5;196mred\x1b[m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://a\x1b\\link", "link"),
        ("\x1b(Bset \x1b=keys", "set keys"),
        ("two\nlines\tand \x00\x9b\x7f", "two lines and    "),
        ("right\u202eto left", "right to left"),
        ("cut off \x1b", "cut off  "),
    ],
)
def test_plain_text_does_nothing_to_a_terminal(text: str, expected: str) -> None:
    assert plain(text) == expected
    assert str(EffNetExtError(text)) == expected
    assert first_few([text]) == expected


def test_the_first_line_is_one_that_says_something() -> None:
    assert first_line(ValueError("\x1b[1m\x1b[0m\n  \n  \x1b[31mwhat\x1b[0m went wrong\nand why")) == "what went wrong"
    assert first_line(ValueError(" \n")) == "ValueError"


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(CheckpointFormatError("file: cut")))
    assert isinstance(error, CheckpointFormatError)
    assert str(error) == "file: cut"


def test_the_innermost_file_counts() -> None:
    with pytest.raises(EffNetExtError, match=r"^b: no good$"), located(Path("a")), located(Path("b")):
        raise EffNetExtError("no good")


def test_parts_of_a_file_stand_between_it_and_the_message() -> None:
    with (
        pytest.raises(EffNetExtError, match=r"^a: block 1: entry 2: no good$"),
        located("folder"),
        located(Path("a")),
        located("block 1"),
        located("entry 2"),
    ):
        raise EffNetExtError("no good")


@pytest.mark.parametrize("kind", [EffNetExtError, CheckpointFormatError, NameMappingError])
def test_the_error_stays_the_one_that_it_was(kind: type[EffNetExtError]) -> None:
    cause, error = KeyError("x"), kind("no good")
    with pytest.raises(kind) as caught, located(Path("a")):
        raise error from cause
    assert caught.value is error
    assert error.__cause__ is cause


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match=r"^no good$"), located(Path("a")):
        raise ValueError("no good")


def test_a_copy_of_an_error_is_located_too() -> None:
    with pytest.raises(EffNetExtError, match=r"^a: no good$") as caught, located(Path("a")):
        raise EffNetExtError("no good")
    copy = pickle.loads(pickle.dumps(caught.value))
    with pytest.raises(EffNetExtError, match=r"^a: no good$"), located(Path("b")):
        raise copy
