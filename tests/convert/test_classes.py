"""What outputs mean: their number, names and problem type, from whoever knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from timm_effnet_ext.convert.checkpoint.checkpoint import Checkpoint, Framework, Statement, Variables
from timm_effnet_ext.convert.classes import choose_classes
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub_format import MULTI_LABEL, REGRESSION, SINGLE_LABEL

ABC = {0: "a", 1: "b", 2: "c"}


def checkpoint(*statements: Statement, framework: Framework = "torch") -> Checkpoint:
    return Checkpoint(Path("x"), framework, "", (), Variables(), statements)


@pytest.mark.parametrize(
    ("found", "framework", "written"),
    [(1000, "tensorflow", 1000), (1001, "tensorflow", 1000), (1001, "torch", 1001), (1001, "keras", 1001),
     (21841, "tensorflow", 21841), (21843, "tensorflow", 21843), (0, "tensorflow", 0)],
)  # fmt: skip
def test_only_tensorflows_1001_have_a_background(found: int, framework: Framework, written: int) -> None:
    assert choose_classes(found, checkpoint(framework=framework), Options()).num_classes == written


@pytest.mark.parametrize(
    ("count", "stated", "options", "expected", "origin"),
    [
        (3, None, {}, SINGLE_LABEL, "assumed from their number"),
        (1, None, {}, MULTI_LABEL, "assumed from their number"),
        (3, MULTI_LABEL, {}, MULTI_LABEL, "config.json"),
        (3, SINGLE_LABEL, {}, SINGLE_LABEL, "config.json"),
        (2, REGRESSION, {}, REGRESSION, "config.json"),
        (3, None, {"multi_label": True}, MULTI_LABEL, "given: --multi-label"),
        (3, MULTI_LABEL, {"multi_label": True}, MULTI_LABEL, "given: --multi-label"),
        (0, None, {}, None, ""),
    ],
)
def test_the_problem_type_has_an_origin(
    count: int, stated: str | None, options: dict[str, Any], expected: str | None, origin: str
) -> None:
    found = choose_classes(count, checkpoint(Statement("config.json", problem_type=stated)), Options(**options))
    assert (found.problem_type, found.problem_origin) == (expected, origin)
    assert origin in found.text


@pytest.mark.parametrize(
    ("count", "statement", "message"),
    [
        (3, Statement("the file's layers", problem_type=SINGLE_LABEL), "the file's layers says single_label"),
        (0, Statement("x"), "there is no classifier"),
    ],
)
def test_multi_label_that_cannot_be_is_refused(count: int, statement: Statement, message: str) -> None:
    with pytest.raises(EffNetExtError, match=message):
        choose_classes(count, checkpoint(statement), Options(multi_label=True))


def test_the_first_that_names_as_many_classes_counts() -> None:
    said = [
        Statement("config.json", label_names={0: "x"}),
        Statement("class_names.txt", label_names=ABC),
        Statement("classes", label_names={0: "d", 1: "e", 2: "f"}),
    ]
    found = choose_classes(3, checkpoint(*said), Options())
    assert (found.named.names, found.named.origin) == (("a", "b", "c"), "class_names.txt")
    assert found.named.notes == ("config.json names 1 classes, 0 to 0, the classifier has 3: left out",)
    assert found.text.endswith("names: class_names.txt")


def test_names_that_are_counted_from_one_are_left_out() -> None:
    found = choose_classes(3, checkpoint(Statement("config.json", label_names={1: "a", 2: "b", 3: "c"})), Options())
    assert found.named.names is None
    assert found.named.notes == ("config.json names 3 classes, 1 to 3, the classifier has 3: left out",)


def test_names_with_gaps_leave_outputs_without() -> None:
    found = choose_classes(3, checkpoint(Statement("config.json", label_names={0: "a", 2: "c"})), Options())
    assert found.named.names == ("a", None, "c")


@pytest.mark.parametrize("names", [("yes",), ("no", "yes")])
def test_one_output_has_one_name_or_two(names: tuple[str, ...]) -> None:
    for statement, options in (
        (Statement("x"), Options(label_names=names)),
        (Statement("x", label_names=dict(enumerate(names))), Options()),
    ):
        found = choose_classes(1, checkpoint(statement), options)
        assert found.named.names == names
        assert "sigmoid: yes or no" in found.text


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d")])
def test_names_are_counted(names: tuple[str, ...]) -> None:
    with pytest.raises(EffNetExtError, match=f"{len(names)} label names for 3 classes"):
        choose_classes(3, checkpoint(), Options(label_names=names))


def test_names_in_another_order_than_is_known_are_refused() -> None:
    known = checkpoint(Statement("class_names.txt beside it", label_names={0: "1", 1: "2", 2: "10"}))
    with pytest.raises(
        EffNetExtError, match=r"another order than class_names.txt beside it has them: output '10' is 2"
    ):
        choose_classes(3, known, Options(label_names=("1", "10", "2")))
    assert choose_classes(3, known, Options(label_names=("1", "2", "10"))).named.origin == "given: --label-names"
    translated = choose_classes(3, known, Options(label_names=("one", "two", "ten")))
    assert translated.named.names == ("one", "two", "ten")


def test_unknown_names_are_said_to_be() -> None:
    assert choose_classes(3, checkpoint(), Options()).text.endswith("names unknown, --label-names gives them")
