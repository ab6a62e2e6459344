"""Preprocessing by family agrees with timm's registered cfgs, but where Google's code says otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.dialects.preparation import by_google, crop_share

# timm registers larger sizes and bilinear; Google: tpu lite/efficientnet_lite_builder.py `efficientnet_lite_params`,
# condconv/efficientnet_condconv_builder.py `efficientnet_condconv_params`.
OTHER_SIZE = {"efficientnet_lite3", "efficientnet_lite4", "efficientnet_cc_b1_8e"}
# timm resizes these by their shorter side; Google's code to a square: automl preprocessing.py `preprocess_for_eval`.
OTHER_CROP = {"efficientnetv2_s"}


@pytest.mark.parametrize("name", ARCHS)
def test_the_family_is_as_timm_registers_it(name: str) -> None:
    ours = by_google(ARCHS[name]).cfg
    cfgs = get_arch_pretrained_cfgs(f"tf_{name}").values()
    close = [cfg for cfg in cfgs if name in OTHER_SIZE or _is_close(ours, cfg)]
    assert close
    # half a step of 8 bits: timm writes 0.5 for grey values of 127 and of 128
    assert any([*ours["mean"], *ours["std"]] == pytest.approx([*cfg.mean, *cfg.std], abs=0.5 / 127) for cfg in close)
    assert name in OTHER_CROP or any(ours["crop_mode"] == cfg.crop_mode for cfg in close)


def _is_close(ours: Mapping[str, Any], theirs: PretrainedCfg) -> bool:
    sizes = (ours["input_size"], ours.get("test_input_size")) == (theirs.input_size, theirs.test_input_size)
    # timm cuts some of its digits off instead of rounding them
    return sizes and abs(ours["crop_pct"] - theirs.crop_pct) < 0.0025 and ours["interpolation"] == theirs.interpolation


def test_grey_values_are_googles_to_the_digit() -> None:
    lite, small = (by_google(ARCHS[name]).cfg for name in ("efficientnet_lite0", "efficientnetv2_s"))
    assert [(255 - 255 * lite["mean"][0]) / (255 * lite["std"][0]), lite["mean"][0] * 255] == pytest.approx([1, 127])
    assert small["mean"][0] * 255 == small["std"][0] * 255 == pytest.approx(128)


def test_a_crop_share_gives_the_size_that_it_was_made_of() -> None:
    for crop in range(32, 801):  # timm/data/transforms_factory.py rounds down
        assert math.floor(crop / crop_share(crop, crop + 32)) == crop + 32
