"""Names of models are read as timm, this package and segmentation_models_pytorch write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import timm

from timm_effnet_ext.arch.names import PYTORCH, read_name
from timm_effnet_ext.arch.rows import ARCHS

TENSORFLOW: Mapping[str, Any] = {}


@pytest.mark.parametrize(
    ("text", "name", "args"),
    [
        ("efficientnet_b0", "efficientnet_b0", PYTORCH),
        ("efficientnet_b0.ra_in1k", "efficientnet_b0", PYTORCH),
        ("timm/efficientnet_b0.ra_in1k", "efficientnet_b0", PYTORCH),
        ("hf-hub:timm/efficientnet_lite0.ra_in1k@main", "efficientnet_lite0", PYTORCH),
        ("timm.models.efficientnet_es", "efficientnet_es", PYTORCH),
        ("timm-efficientnet-b3", "efficientnet_b3", PYTORCH),
        ("tu-efficientnetv2_s", "efficientnetv2_s", PYTORCH),
        ("tf_efficientnet_b0", "tf_efficientnet_b0", TENSORFLOW),
        ("tf_efficientnet_b0_ns", "tf_efficientnet_b0_ns", TENSORFLOW),
        ("tf_efficientnetv2_s_in21ft1k", "tf_efficientnetv2_s_in21ft1k", TENSORFLOW),
        ("tu-tf_efficientnet_b5", "tf_efficientnet_b5", TENSORFLOW),
        ("hucorz_efficientnetv2_b0", "hucorz_efficientnetv2_b0", TENSORFLOW),
        ("efficientnetv2_b0", "efficientnetv2_b0", TENSORFLOW),  # of which timm has the tf_ one alone
    ],
)
def test_names_are_read(text: str, name: str, args: Mapping[str, Any]) -> None:
    found = read_name(text)
    assert found is not None
    assert (found.name, found.model_args) == (name, args)
    assert found.row in ARCHS


@pytest.mark.parametrize("text", ["resnet50", "mine", "local-dir:efficientnet_b0", "efficientnet-b0", "", "unet/b0"])
def test_other_names_say_nothing(text: str) -> None:
    assert read_name(text) is None


RELATIVES = ["efficientnetv2_rw_t", "gc_efficientnetv2_rw_t", "mixnet_s", "tf_mixnet_l",
             "efficientnet_b1_pruned", "efficientnet_b0_gn", "efficientnet_h_b5", "test_efficientnet"]  # fmt: skip


def test_relatives_of_timm_are_told_from_ours() -> None:
    for name in RELATIVES:
        assert timm.is_model(name)
        found = read_name(name)
        assert found is not None
        assert found.row is None


def test_every_model_of_timm_with_such_a_name_is_read() -> None:
    for name in (*timm.list_models("*efficientnet*"), *timm.list_models("*mixnet*")):
        assert read_name(name) is not None, name


def test_timm_has_each_plain_name_that_is_read_as_its_own() -> None:
    for row in ARCHS:
        found = read_name(row)
        assert found is not None
        assert timm.is_model(row) == bool(found.model_args), row
