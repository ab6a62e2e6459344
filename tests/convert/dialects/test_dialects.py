"""Dialects are bijections: there and back is nothing lost, for every dialect and architecture."""

from __future__ import annotations

import numpy as np
import pytest

from timm_effnet_ext.arch.identify import identify_state
from timm_effnet_ext.arch.layout import COUNTER_LEAF, layers, state_shapes
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.dialects.dialect import SAME, Dialect, Layout, plan, to_source, to_torch
from timm_effnet_ext.convert.dialects.keras import KERAS_DIALECTS
from timm_effnet_ext.convert.dialects.match import identify, nearest
from timm_effnet_ext.convert.dialects.pytorch import (
    LUKEMELAS,
    TIMM,
    TORCH_DIALECTS,
    TORCHVISION,
    WZMIAOMIAO_V1,
    WZMIAOMIAO_V2,
)
from timm_effnet_ext.convert.dialects.tensorflow import TF1, TF2_OBJECT, TF_DIALECTS
from timm_effnet_ext.errors import NameMappingError
from timm_effnet_ext.models.blocks import BLOCKS

ALL = (*TF_DIALECTS, *KERAS_DIALECTS, *TORCH_DIALECTS)


def _can_name(dialect: Dialect, arch: str) -> bool:
    return {stage[0].kind for stage in ARCHS[arch].blocks()} <= dialect.kinds


PAIRS = [(dialect, arch) for dialect in ALL for arch in ARCHS if _can_name(dialect, arch)]


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
def test_dialects_know_only_blocks_that_exist(dialect: Dialect) -> None:
    assert dialect.kinds <= BLOCKS.keys()


def test_the_tensorflow_names_together_and_our_own_cover_every_block() -> None:
    assert frozenset().union(*(dialect.kinds for dialect in TF_DIALECTS)) == TIMM.kinds == BLOCKS.keys()


@pytest.mark.parametrize(("dialect", "arch"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_there_and_back_is_nothing_lost(dialect: Dialect, arch: str) -> None:
    entries = plan(ARCHS[arch], dialect, prefix="p/", num_classes=7)
    wanted = {k: s for k, s in state_shapes(layers(ARCHS[arch], num_classes=7)).items() if not k.endswith(COUNTER_LEAF)}
    assert {entry.torch: entry.shape for entry in entries} == wanted
    assert {entry.torch for entry in to_torch(entries).values()} == to_source(entries).keys()
    for entry in entries:
        assert entry.layout.shape(entry.source_shape) == entry.shape
        assert entry.layout.inverse.shape(entry.shape) == entry.source_shape


def test_each_expert_is_laid_out_as_the_kernel_that_it_is() -> None:
    for entry in plan(ARCHS["efficientnet_cc_b0_4e"], TF1, width_mult=0.25):
        if not entry.layout.kernel:
            continue
        values = np.arange(np.prod(entry.source_shape)).reshape(entry.source_shape)
        expected = [row.reshape(entry.layout.kernel).transpose(entry.layout.perm).ravel() for row in values]
        assert np.array_equal(entry.layout.apply(values), expected)
        assert np.array_equal(entry.layout.inverse.apply(entry.layout.apply(values)), values)


@pytest.mark.parametrize("layout", [entry.layout for entry in plan(ARCHS["efficientnet_b0"], TF1)[:12]])
def test_layouts_are_undone_by_their_inverse(layout: Layout) -> None:
    values = np.arange(2 * 3 * 4 * 5).reshape((2, 3, 4, 5)[: len(layout.perm) or 4])
    assert np.array_equal(layout.inverse.apply(layout.apply(values)), values)
    assert layout.apply(values).base is not None or layout == SAME  # a view, not a copy


@pytest.mark.parametrize(
    ("dialect", "arch"),
    [
        pair
        for pair in PAIRS
        if pair[1]
        in (
            "efficientnet_b0",
            "efficientnet_b7",
            "efficientnetv2_s",
            "efficientnet_lite4",
            "efficientnet_cc_b0_4e",
            "efficientnet_cc_b0_8e",
        )
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_each_is_identified_from_names_and_shapes(dialect: Dialect, arch: str) -> None:
    shapes = {entry.source: entry.source_shape for entry in plan(ARCHS[arch], dialect, num_classes=7)}
    found = identify(shapes, (dialect,))
    assert [(c.match.arch_name, c.match.num_classes, c.dialect) for c in found] == [(arch, 7, dialect)]
    assert {entry.source for entry in found[0].plan()} == shapes.keys()


def test_no_file_is_of_two_dialects() -> None:
    for dialect, arch in PAIRS:
        if arch not in ("efficientnet_b0", "efficientnetv2_b0"):
            continue
        shapes = {entry.source: entry.source_shape for entry in plan(ARCHS[arch], dialect)}
        found = identify(shapes, ALL)
        assert dialect.name in {candidate.dialect.name for candidate in found}
        assert len({candidate.match for candidate in found}) == 1


def test_the_scope_decides_between_rows_that_are_scaled_alike() -> None:
    for name, scope in (("efficientnetv2_b2", "efficientnetv2-b2/"), ("efficientnetv2_b0", "efficientnetv2-b0/")):
        entries = plan(ARCHS["efficientnetv2_b0"], TF1, prefix=scope, width_mult=0.25, depth_mult=0.25)
        found = identify({entry.source: entry.source_shape for entry in entries}, TF_DIALECTS)
        assert len(found) > 1
        assert found[0].match.arch_name == name
    for name, scope in (("efficientnet_cc_b0_8e", "b0-8e/"), ("efficientnet_cc_b1_8e", "b0-8e-depth/")):
        entries = plan(ARCHS[name], TF1, prefix=f"efficientnet-condconv-{scope}", depth_mult=0.25)
        found = identify({entry.source: entry.source_shape for entry in entries}, TF_DIALECTS)
        assert len(found) > 1
        assert found[0].match.arch_name == name
    edge = plan(ARCHS["efficientnet_es"], TF1, prefix="efficientnet-edgetpu-L/", width_mult=0.25, depth_mult=0.25)
    assert identify({e.source: e.source_shape for e in edge}, TF_DIALECTS)[0].match.arch_name == "efficientnet_el"


def test_the_nearest_is_named_for_a_damaged_checkpoint() -> None:
    shapes = {entry.source: entry.source_shape for entry in plan(ARCHS["efficientnet_b3"], TF1, prefix="x/")}
    shapes = {name: shape for name, shape in shapes.items() if "/stem/" not in name}
    assert identify(shapes, TF_DIALECTS) == []
    found = nearest(shapes, TF_DIALECTS)
    assert found is not None
    assert (found.match.arch_name, found.prefix) == ("efficientnet_b3", "x/")


def test_a_block_that_a_dialect_does_not_know_is_an_error() -> None:
    with pytest.raises(NameMappingError, match=r"^dialect 'lukemelas' knows no block of kind \('fused', False\)$"):
        plan(ARCHS["efficientnetv2_s"], LUKEMELAS)


@pytest.mark.parametrize(
    ("dialect", "arch", "ours", "theirs"),
    [
        (TF1, "efficientnet_cc_b0_4e", "blocks.3.2.conv_pwl", "blocks_7/conv2d_1"),
        (TF1, "efficientnet_cc_b0_4e", "blocks.4.0.routing_fn", "blocks_8/dense"),
        (TF1, "efficientnet_cc_b0_4e", "blocks.4.0.conv_pw", "model/blocks_8/cond_conv2d_1"),
        (TF1, "efficientnet_cc_b0_4e", "blocks.4.0.conv_dw", "model/blocks_8/depthwise_cond_conv2d"),
        (TF1, "efficientnet_cc_b1_8e", "blocks.6.1.conv_pw", "model/blocks_22/cond_conv2d_31"),
        (TF1, "efficientnet_cc_b1_8e", "blocks.6.1.conv_dw", "model/blocks_22/depthwise_cond_conv2d_10"),
        (TF1, "efficientnet_cc_b1_8e", "blocks.6.1.conv_pwl", "model/blocks_22/cond_conv2d_32"),
        (TF2_OBJECT, "efficientnet_b0", "blocks.0.0.bn1", "_blocks/0/_norm1"),
        (TF2_OBJECT, "efficientnet_b0", "blocks.0.0.bn2", "_blocks/0/_norm2"),
        (TF2_OBJECT, "efficientnetv2_b0", "blocks.0.0.bn1", "_blocks/0/_norm1"),
        (TF2_OBJECT, "efficientnetv2_b0", "blocks.1.0.bn1", "_blocks/1/_norm0"),
        (TF2_OBJECT, "efficientnetv2_b0", "blocks.1.0.bn2", "_blocks/1/_norm1"),
        (TF2_OBJECT, "efficientnetv2_b0", "blocks.3.0.bn3", "_blocks/5/_norm2"),
        (LUKEMELAS, "efficientnet_b0", "bn2", "_bn1"),
        (LUKEMELAS, "efficientnet_b0", "blocks.0.0.bn1", "_blocks.0._bn1"),
        (LUKEMELAS, "efficientnet_b0", "blocks.0.0.conv_pw", "_blocks.0._project_conv"),
        (LUKEMELAS, "efficientnet_b0", "blocks.1.0.conv_pw", "_blocks.1._expand_conv"),
        (TORCHVISION, "efficientnet_b0", "blocks.0.0.conv_dw", "features.1.0.block.0.0"),
        (TORCHVISION, "efficientnet_b0", "blocks.0.0.se.conv_reduce", "features.1.0.block.1.fc1"),
        (TORCHVISION, "efficientnet_b0", "blocks.0.0.bn2", "features.1.0.block.2.1"),
        (TORCHVISION, "efficientnet_b0", "blocks.1.0.conv_dw", "features.2.0.block.1.0"),
        (TORCHVISION, "efficientnet_b0", "blocks.1.0.se.conv_expand", "features.2.0.block.2.fc2"),
        (TORCHVISION, "efficientnet_b0", "blocks.1.1.bn3", "features.2.1.block.3.1"),
        (TORCHVISION, "efficientnet_b0", "conv_head", "features.8.0"),
        (TORCHVISION, "efficientnetv2_s", "blocks.0.1.conv", "features.1.1.block.0.0"),
        (TORCHVISION, "efficientnetv2_s", "blocks.1.0.conv_exp", "features.2.0.block.0.0"),
        (TORCHVISION, "efficientnetv2_s", "blocks.1.0.bn2", "features.2.0.block.1.1"),
        (WZMIAOMIAO_V1, "efficientnet_b0", "blocks.2.1.conv_dw", "features.3b.block.dwconv.0"),
        (WZMIAOMIAO_V2, "efficientnetv2_s", "blocks.0.1.conv", "blocks.1.project_conv.conv"),
        (WZMIAOMIAO_V2, "efficientnetv2_s", "blocks.1.0.bn1", "blocks.2.expand_conv.bn"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_names_that_depend_on_the_kind_or_number_of_a_block(
    dialect: Dialect, arch: str, ours: str, theirs: str
) -> None:
    """Read off the code that is named above each dialect."""
    entry = to_source(plan(ARCHS[arch], dialect))[f"{ours}.weight"]
    assert entry.source.rpartition(dialect.sep)[0] == theirs


def test_tensors_come_in_the_layout_of_torch() -> None:
    entry = plan(ARCHS["efficientnet_b0"], TF1)[0]
    values = np.arange(np.prod(entry.source_shape), dtype="f4").reshape(entry.source_shape)
    assert entry.torch == "conv_stem.weight"
    assert entry.layout.apply(values)[5, 2, 0, 1] == values[0, 1, 2, 5]


def test_timms_own_names_are_ours() -> None:
    for arch in ARCHS:
        assert all(entry.torch == entry.source for entry in plan(ARCHS[arch], TIMM))


def test_states_are_identified_as_their_plan_is() -> None:
    for arch in ("efficientnet_b0", "efficientnet_em"):
        state = {entry.torch: entry.shape for entry in plan(ARCHS[arch], TF1)}
        assert identify_state(state)[0].arch_name == arch
