"""identify.py finds every architecture, plain and scaled, from keys and shapes, and nothing in anything else."""

from __future__ import annotations

import pytest

from timm_effnet_ext.arch.identify import Match, identify_state
from timm_effnet_ext.arch.layout import layers, state_shapes
from timm_effnet_ext.arch.rows import ARCHS

SCALES = [(0.5, 1.0), (1.0, 0.5), (1.5, 1.3), (0.35, 0.6), (0.87, 2.0), (0.1, 0.1)]


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize(("num_classes", "in_chans"), [(1000, 3), (5, 1), (0, 4)])
def test_each_row_is_found_alone(name: str, num_classes: int, in_chans: int) -> None:
    shapes = state_shapes(layers(ARCHS[name], num_classes=num_classes, in_chans=in_chans))
    assert identify_state(shapes) == [Match(name, num_classes, in_chans)]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b3", "efficientnet_lite2", "efficientnet_em",
                                  "efficientnetv2_b2", "efficientnetv2_s", "efficientnetv2_xl"])  # fmt: skip
@pytest.mark.parametrize(("width", "depth"), SCALES)
def test_scaled_rows_are_found_and_every_match_has_these_shapes(name: str, width: float, depth: float) -> None:
    shapes = state_shapes(layers(ARCHS[name], width_mult=width, depth_mult=depth))
    matches = identify_state(shapes)
    assert name in {match.arch_name for match in matches} or all(match.is_exact for match in matches)
    assert matches
    for match in matches:
        found = layers(ARCHS[match.arch_name], width_mult=match.width_mult, depth_mult=match.depth_mult)
        assert state_shapes(found) == shapes


def test_the_roundest_scale_comes_first() -> None:
    shapes = state_shapes(layers(ARCHS["efficientnet_b0"], width_mult=0.5))
    assert identify_state(shapes)[0] == Match("efficientnet_b0", 1000, 3, 0.5, 1.0)


def test_counters_may_be_missing() -> None:
    shapes = state_shapes(layers(ARCHS["efficientnet_b0"]))
    bare = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert identify_state(bare) == identify_state(shapes)


@pytest.mark.parametrize("key", ["blocks.3.1.bn2.bias", "conv_head.weight", "blocks.0.0.se.conv_reduce.bias"])
def test_one_missing_or_reshaped_key_fits_nothing(key: str) -> None:
    shapes = state_shapes(layers(ARCHS["efficientnet_b0"]))
    assert not identify_state({k: v for k, v in shapes.items() if k != key})
    assert not identify_state(shapes | {key: (7,)})
    assert not identify_state(shapes | {"extra.weight": (7,)})


@pytest.mark.parametrize("shapes", [{}, {"conv_stem.weight": ()}, {"blocks.0.0.conv.weight": (1,)},
                                    {"blocks.99999999999.0.a.b": (1,)}, {"fc.weight": (10, 10)}])  # fmt: skip
def test_other_state_dicts_fit_nothing(shapes: dict[str, tuple[int, ...]]) -> None:
    assert identify_state(shapes) == []
