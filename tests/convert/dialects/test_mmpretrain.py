"""Names of mmpretrain, which counts V1's stages of one size as one layer and V2's for themselves."""

from __future__ import annotations

import pytest

from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.dialects.dialect import Dialect, plan, to_source
from timm_effnet_ext.convert.dialects.match import readings
from timm_effnet_ext.convert.dialects.pytorch import MMPRETRAIN_V1, MMPRETRAIN_V2, TORCH_DIALECTS, by_mmpretrain_v2

# Shapes in the state_dict of mmpretrain 1.2.0's ImageClassifier, with LinearClsHead.
V1_B0 = {
    "backbone.layers.0.conv.weight": (32, 3, 3, 3),
    "backbone.layers.1.0.depthwise_conv.conv.weight": (32, 1, 3, 3),
    "backbone.layers.1.0.se.conv1.conv.bias": (8,),
    "backbone.layers.1.0.linear_conv.bn.running_var": (16,),
    "backbone.layers.4.2.expand_conv.conv.weight": (480, 80, 1, 1),
    "backbone.layers.4.3.depthwise_conv.conv.weight": (480, 1, 5, 5),
    "backbone.layers.5.4.linear_conv.conv.weight": (320, 1152, 1, 1),
    "backbone.layers.6.bn.weight": (1280,),
    "head.fc.weight": (4, 1280),
}
V2_S = {
    "backbone.layers.1.1.conv.weight": (24, 24, 3, 3),
    "backbone.layers.2.0.conv1.conv.weight": (96, 24, 3, 3),
    "backbone.layers.2.0.conv2.bn.bias": (48,),
    "backbone.layers.6.14.se.conv2.conv.weight": (1536, 64, 1, 1),
    "backbone.layers.7.conv.weight": (1280, 256, 1, 1),
    "head.fc.bias": (4,),
}


@pytest.mark.parametrize(
    ("arch", "dialect", "written"),
    [("efficientnet_b0", MMPRETRAIN_V1, V1_B0), ("efficientnetv2_s", MMPRETRAIN_V2, V2_S)],
)
def test_names_are_those_that_mmpretrain_writes(arch: str, dialect: Dialect, written: dict[str, tuple]) -> None:
    shapes = {entry.source: entry.source_shape for entry in plan(ARCHS[arch], dialect, num_classes=4)}
    assert written.items() <= shapes.items()


@pytest.mark.parametrize(
    ("arch", "dialect"),
    [("efficientnet_b7", MMPRETRAIN_V1), ("efficientnetv2_b0", MMPRETRAIN_V2), ("efficientnetv2_m", MMPRETRAIN_V2)],
)
def test_its_files_are_told_from_all_others(arch: str, dialect: Dialect) -> None:
    shapes = {entry.source: entry.source_shape for entry in plan(ARCHS[arch], dialect)}
    found = readings(shapes, TORCH_DIALECTS, lambda name: False)
    assert {(one.match.arch_name, one.dialect.name, one.prefix) for one in found} == {(arch, dialect.name, "")}


def test_a_head_is_found_behind_the_last_layer() -> None:
    names = to_source(plan(ARCHS["efficientnetv2_m"], MMPRETRAIN_V2))
    assert names["conv_head.weight"].source == "backbone.layers.8.conv.weight"


def test_v2_is_normalised_by_size() -> None:
    assert by_mmpretrain_v2(ARCHS["efficientnetv2_b0"]).cfg["std"] == (0.229, 0.224, 0.225)
    assert by_mmpretrain_v2(ARCHS["efficientnetv2_s"]).cfg["std"] == (0.5, 0.5, 0.5)
