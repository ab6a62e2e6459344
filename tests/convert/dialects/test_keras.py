"""dialects.py names every tensor of every architecture of keras.applications once, and is found by its names."""

from __future__ import annotations

import pytest

from timm_effnet_ext.arch.identify import Match
from timm_effnet_ext.arch.rows import ARCHS, V1, V2_BASE, V2_L, V2_M, V2_S
from timm_effnet_ext.convert.dialects.dialect import Dialect, plan
from timm_effnet_ext.convert.dialects.keras import KERAS_COUNTED, KERAS_DIALECTS
from timm_effnet_ext.convert.dialects.match import identify

IN_KERAS = [a.name for a in ARCHS.values() if a.stages in (V1, V2_BASE, V2_S, V2_M, V2_L) and a.width <= 2]


def fits(name: str, dialect: Dialect) -> bool:
    if not {stage[0].kind for stage in ARCHS[name].blocks()} <= dialect.kinds:
        return False
    is_of_one = dialect.name.endswith(("v1", "v2"))
    return not is_of_one or dialect.name.endswith("v2") == name.startswith("efficientnetv2")


@pytest.mark.parametrize(
    ("name", "dialect"),
    [(name, dialect) for dialect in KERAS_DIALECTS for name in IN_KERAS if fits(name, dialect)],
    ids=lambda value: getattr(value, "name", value),
)
def test_each_architecture_is_found_by_its_names_alone(name: str, dialect) -> None:
    shapes = {entry.source: entry.source_shape for entry in plan(ARCHS[name], dialect, num_classes=7)}
    shapes |= {"normalization/mean": (3,), "normalization/count": ()}
    found = identify(shapes, KERAS_DIALECTS)
    assert [(candidate.match, candidate.dialect.name) for candidate in found] == [(Match(name, 7, 3), dialect.name)]


def test_known_names() -> None:
    """Seen in the files that Keras wrote: a block behind z goes on with the characters behind it."""
    deep = {entry.torch: entry.source for entry in plan(ARCHS["efficientnetv2_l"], KERAS_DIALECTS[1], depth_mult=1.2)}
    assert deep["blocks.5.26.conv_pw.weight"] == "block6{_expand_conv/kernel"
    assert deep["blocks.5.0.conv_dw.weight"] == "block6a_dwconv2/depthwise_kernel"
    counted = [entry.source for entry in plan(ARCHS["efficientnet_b0"], KERAS_COUNTED)]
    assert counted[:2] == ["conv2d/kernel", "batch_normalization/gamma"]
    # 1 + 16 x (2 of squeeze-and-excitation + projection) + 15 expansions + 1
    assert "conv2d_64/kernel" in counted
    assert "conv2d_65/kernel" not in counted
    assert "depthwise_conv2d_15/kernel" in counted
