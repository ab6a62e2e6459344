"""What an error says is one line of plain text, whatever foreign words are in it."""

from __future__ import annotations

import pickle

import pytest

from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_few, first_line, plain


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
