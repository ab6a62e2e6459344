"""Names on the Hub: what is one, how it is taken apart, and what is said of what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub_name import HubName, is_hub_name, parse_hub_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf-hub:a/b", HubName("a/b")),
        ("hf-hub:a/b@v1.0", HubName("a/b", "v1.0")),
        ("hf-hub:a/b@refs/pr/1", HubName("a/b", "refs/pr/1")),
        ("hf-hub:a/b@feature%2Fx", HubName("a/b", "feature/x")),
        ("hf-hub:a/b/c/d@e.keras", HubName("a/b", None, "c/d@e.keras")),
        ("hf-hub:a/b@main/c/d.keras", HubName("a/b", "main", "c/d.keras")),
        ("hf-hub:a/b@refs/pr/1/c", HubName("a/b", "refs/pr/1", "c")),
    ],
)
def test_a_name_is_taken_apart_and_put_together(text: str, name: HubName) -> None:
    assert is_hub_name(text)
    assert parse_hub_name(text) == name
    assert str(name) == text


@pytest.mark.parametrize("text", ["hf_hub:a/b", "HF-Hub:a/b", "hf-hub:models/a/b", "hf-hub:a/b/", Path("hf-hub:a/b")])
def test_timms_and_the_clients_other_spellings(text: str | Path) -> None:
    assert is_hub_name(text)
    assert parse_hub_name(text) == HubName("a/b")


@pytest.mark.parametrize("text", ["a/b", "./hf-hub:a/b", "local-dir:a", "hf://a/b", Path("x/hf-hub:a")])
def test_a_path_is_no_name(text: str | Path) -> None:
    assert not is_hub_name(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hf-hub:", "hf-hub:: expected hf-hub:USER/REPO[@REVISION][/PATH]: Empty body after 'hf-hub:'"),
        ("hf-hub:b0", "hf-hub:USER/REPO[@REVISION][/PATH]: Repository id must be 'namespace/name', got 'b0'"),
        ("hf-hub:a/b@", "expected hf-hub:USER/REPO[@REVISION][/PATH]: Empty revision after '@'"),
        ("hf-hub:a b/c", "expected hf-hub:USER/REPO[@REVISION][/PATH]: Repo id must use alphanumeric chars"),
        ("hf-hub:https://huggingface.co/a/b", "expected hf-hub:USER/REPO[@REVISION][/PATH]: "),
        ("hf-hub:datasets/a/b", "hf-hub:datasets/a/b: is a dataset. Weights are taken from a model's repository alone"),
        ("hf-hub:spaces/a/b/c", "is a space. Weights are taken from a model's repository alone"),
    ],
)
def test_what_is_none_is_told(text: str, why: str) -> None:
    with pytest.raises(EffNetExtError) as caught:
        parse_hub_name(text)
    assert why in str(caught.value)
