"""Padding and epsilon: by a stated name, by the dialect, by the name that was asked for, or not decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from timm_effnet_ext.arch.identify import Match
from timm_effnet_ext.arch.names import PYTORCH
from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.convert.dialects.dialect import Dialect
from timm_effnet_ext.convert.dialects.match import Candidate
from timm_effnet_ext.convert.dialects.pytorch import LUKEMELAS, TIMM, TORCHVISION, TRANSFORMERS, WZMIAOMIAO_V2
from timm_effnet_ext.convert.dialects.tensorflow import TF1
from timm_effnet_ext.convert.numerics import decide
from timm_effnet_ext.errors import NameMappingError

TENSORFLOW: Mapping[str, Any] = {}


def candidate(row: str = "efficientnet_b0", dialect: Dialect = TIMM, prefix: str = "", **scale: float) -> Candidate:
    return Candidate(Match(row, 3, 3, **scale), dialect, prefix, "")


def named(name: str, where: str = "hyper_parameters.model_name", **more: Any) -> Statement:
    return Statement(where, name=name, **more)


@pytest.mark.parametrize(("name", "args"), [("efficientnet_b0", PYTORCH), ("tf_efficientnet_b0", TENSORFLOW)])
@pytest.mark.parametrize("prefix", ["", "model.", "net.backbone."])
def test_a_stated_name_decides_under_any_prefix(name: str, args: Mapping[str, Any], prefix: str) -> None:
    found = decide(candidate(prefix=prefix), [named(name)])
    assert (found.model_args, found.problem) == (args, None)
    assert found.origins["pad_type"] == f"hyper_parameters.model_name: {name}"


def test_names_of_other_models_and_networks_decide_nothing() -> None:
    others = [named("resnet50"), named("efficientnet_b3"), named("efficientnet_b0", prefix="teacher.")]
    assert decide(candidate(prefix="student."), others).problem is not None


def test_nothing_said_names_both_models_and_the_way() -> None:
    problem = decide(candidate(), []).problem
    assert problem is not None
    for part in ("timm's efficientnet_b0 (PyTorch's padding", "tf_efficientnet_b0 (TensorFlow's padding",
                 "--model efficientnet_b0 or --model tf_efficientnet_b0"):  # fmt: skip
        assert part in problem


def test_two_names_that_differ_decide_nothing() -> None:
    said = [named("efficientnet_b0"), named("tf_efficientnet_b0", "hyper_parameters.teacher_model")]
    assert decide(candidate(), said).problem is not None
    assert decide(candidate(), said, model="tf_efficientnet_b0").model_args == TENSORFLOW


@pytest.mark.parametrize(
    ("model", "args"),
    [("efficientnet_b0", PYTORCH), ("tf_efficientnet_b0", TENSORFLOW), ("hucorz_efficientnet_b0", TENSORFLOW)],
)
def test_the_user_says_it(model: str, args: Mapping[str, Any]) -> None:
    found = decide(candidate(), [], model)
    assert (found.model_args, found.problem) == (args, None)
    assert found.origins["bn_eps"] == f"given: --model {model}"


def test_the_user_may_not_contradict_what_is_stated() -> None:
    with pytest.raises(NameMappingError, match=r"hyper_parameters.model_name says tf_efficientnet_b0 .*--model says"):
        decide(candidate(), [named("tf_efficientnet_b0")], "efficientnet_b0")


@pytest.mark.parametrize(
    ("dialect", "row", "args"),
    [
        (TORCHVISION, "efficientnet_b0", PYTORCH),
        (TORCHVISION, "efficientnet_b5", {"pad_type": ""}),
        (WZMIAOMIAO_V2, "efficientnetv2_s", {"pad_type": ""}),
        (LUKEMELAS, "efficientnet_b0", TENSORFLOW),
        (TRANSFORMERS, "efficientnet_b0", TENSORFLOW),
        (TF1, "efficientnet_b0", TENSORFLOW),
    ],
)
def test_a_dialect_of_one_code_has_its_numerics(dialect: Dialect, row: str, args: Mapping[str, Any]) -> None:
    found = decide(candidate(row, dialect, "model."), [], model=f"tf_{row}")
    assert (found.model_args, found.problem) == (args, None)


def test_a_network_in_which_transformers_has_fewer_shortcuts_is_refused() -> None:
    """EfficientNetFinalBlockLayer adds none where `id_skip` is true, in the first block of every stage."""
    narrow = {"width_mult": 0.25, "depth_mult": 0.5}
    with pytest.raises(
        NameMappingError, match=r"width_mult=0\.25.* is so narrow that .* dialect 'transformers' does not"
    ):
        decide(candidate("efficientnet_b0", TRANSFORMERS, **narrow), [])
    assert decide(candidate("efficientnet_b0", LUKEMELAS, **narrow), []).problem is None
    assert decide(candidate("efficientnet_b0", TRANSFORMERS, width_mult=0.5), []).problem is None


def test_a_row_that_timm_has_with_tf_alone_is_one_model() -> None:
    assert decide(candidate("efficientnetv2_b0"), []).problem is None


def test_only_ours_are_scaled_which_is_said() -> None:
    found = decide(candidate(width_mult=0.5), [])
    assert (found.model_args, found.problem) == (TENSORFLOW, None)
    assert found.origins["pad_type"].startswith("assumed")
    assert any("were assumed, as hucorz_efficientnet_b0 has them" in note for note in found.notes)


def test_the_relative_that_is_a_scaled_row_is_not_taken_for_ours() -> None:
    scaled = candidate("efficientnetv2_s", width_mult=0.8, depth_mult=0.9)
    problem = decide(scaled, []).problem
    assert problem is not None
    assert "timm's efficientnetv2_rw_t (PyTorch's padding" in problem
    assert problem.endswith("Say it: --model hucorz_efficientnetv2_s")
    assert decide(scaled, [], "hucorz_efficientnetv2_s").model_args == TENSORFLOW
    with pytest.raises(NameMappingError, match=r"says efficientnetv2_rw_t, which is none of the 29"):
        decide(scaled, [named("efficientnetv2_rw_t")])


def test_arguments_that_are_stated_count_before_names() -> None:
    args = Statement("train.py's arguments", model_args={"bn_eps": 0.01, "width_mult": 7, "act_layer": "silu"})
    found = decide(candidate(), [args, named("efficientnet_b0")])
    assert found.model_args == {"pad_type": "", "bn_eps": 0.01}  # silu is what the row has, the width is in the shapes
    assert found.origins["bn_eps"] == "train.py's arguments"
    both = Statement("config.json", model_args={"bn_eps": 1e-3, "pad_type": "same"})
    assert decide(candidate(), [both]).problem is None
