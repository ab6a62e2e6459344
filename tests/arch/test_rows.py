"""The rows and the rules that scale them: the papers' numbers and the laws of rounding."""

from __future__ import annotations

import itertools
import math

import pytest

from timm_effnet_ext.arch.layout import layers, state_shapes
from timm_effnet_ext.arch.rows import ARCHS, drop_path_rates, parse_model_name, round_channels, round_repeats
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.models.blocks import BLOCKS

# Trainable parameters and BatchNorm statistics, in millions: google/automl efficientnetv2/effnetv2_model_test.py.
AUTOML_PARAMS = {
    "efficientnet_b0": 5_330_564, "efficientnetv2_b0": 7_200_312, "efficientnetv2_b1": 8_212_124,
    "efficientnetv2_b2": 10_178_374, "efficientnetv2_b3": 14_467_622, "efficientnetv2_s": 21_612_360,
    "efficientnetv2_m": 54_431_388, "efficientnetv2_l": 119_027_848, "efficientnetv2_xl": 208_896_832,
}  # fmt: skip


@pytest.mark.parametrize("chs", range(8, 700, 7))
@pytest.mark.parametrize("width", [0.1, 0.35, 0.9, 1.0, 1.1, 1.4, 4.3])
def test_channels_are_multiples_of_eight_and_lose_at_most_a_tenth(chs: int, width: float) -> None:
    rounded = round_channels(chs, width)
    assert rounded % 8 == 0
    assert rounded >= 0.9 * chs * width
    assert rounded - chs * width <= 8


def test_repeats_are_rounded_up() -> None:
    assert [round_repeats(4, depth) for depth in (1.0, 1.1, 1.25, 1.8, 0.1)] == [4, 5, 5, 8, 1]


def test_drop_path_is_linear_in_the_block_index() -> None:
    assert drop_path_rates(4, 0.2) == pytest.approx((0.0, 0.05, 0.1, 0.15))


@pytest.mark.parametrize("name", ARCHS)
def test_blocks_follow_each_other(name: str) -> None:
    stages = ARCHS[name].blocks()
    blocks = list(itertools.chain(*stages))
    assert [stage[0].stage for stage in stages] == list(range(len(stages)))
    for before, after in itertools.pairwise(blocks):
        assert after.in_chs == before.out_chs
    for block in blocks:
        assert block.kind in BLOCKS
        assert block.se_chs in (0, block.in_chs // 4)  # of the block's input, not of its expansion
        assert not block.shortcut or (block.stride, block.in_chs) == (1, block.out_chs)


def test_an_unknown_name_says_which_are_near() -> None:
    with pytest.raises(KeyError, match="did you mean efficientnetv2_s"):
        ARCHS["efficientnet_v2s"]


def test_the_rows_cannot_be_edited() -> None:
    with pytest.raises(TypeError):
        ARCHS["mine"] = ARCHS["efficientnet_b0"]  # type: ignore[index]


@pytest.mark.parametrize("name", AUTOML_PARAMS)
def test_parameter_counts_are_automls(name: str) -> None:
    shapes = state_shapes(layers(ARCHS[name]))
    assert sum(math.prod(shape) for shape in shapes.values() if shape) == AUTOML_PARAMS[name]


@pytest.mark.parametrize("text", ["efficientnet_b0", "hucorz_efficientnet_b0"])
def test_names_may_have_a_prefix_and_a_tag(text: str) -> None:
    assert parse_model_name(text) == (ARCHS["efficientnet_b0"], "")
    assert parse_model_name(f"{text}.in1k") == (ARCHS["efficientnet_b0"], "in1k")


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(EffNetExtError, match=r"no architecture 'efficientnet_b9'; did you mean .*efficientnet_b8"):
        parse_model_name("hucorz_efficientnet_b9")
