"""Files of Hugging Face's transformers, whose classifier stands beside the network and not in it."""

from __future__ import annotations

import pytest

from timm_effnet_ext.arch.layout import Shape
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.convert.dialects.dialect import plan
from timm_effnet_ext.convert.dialects.match import readings
from timm_effnet_ext.convert.dialects.pytorch import TORCH_DIALECTS, TRANSFORMERS, TRANSFORMERS_MODEL

# What `EfficientNetForImageClassification.save_pretrained` of transformers 5.24 wrote for a B0: the ends, a block
# without expansion and the first with it. Of each norm the scale stands for all that it has.
LAYERS = """
    efficientnet.embeddings.convolution.weight efficientnet.embeddings.batchnorm.weight
    efficientnet.encoder.blocks.0.depthwise_conv.depthwise_conv.weight
    efficientnet.encoder.blocks.0.depthwise_conv.depthwise_norm.weight
    efficientnet.encoder.blocks.0.squeeze_excite.reduce.weight efficientnet.encoder.blocks.0.squeeze_excite.reduce.bias
    efficientnet.encoder.blocks.0.squeeze_excite.expand.weight efficientnet.encoder.blocks.0.squeeze_excite.expand.bias
    efficientnet.encoder.blocks.0.projection.project_conv.weight
    efficientnet.encoder.blocks.0.projection.project_bn.weight
    efficientnet.encoder.blocks.1.expansion.expand_conv.weight efficientnet.encoder.blocks.1.expansion.expand_bn.weight
    efficientnet.encoder.blocks.1.depthwise_conv.depthwise_conv.weight
    efficientnet.encoder.blocks.1.depthwise_conv.depthwise_norm.weight
    efficientnet.encoder.blocks.1.squeeze_excite.reduce.weight efficientnet.encoder.blocks.1.squeeze_excite.reduce.bias
    efficientnet.encoder.blocks.1.squeeze_excite.expand.weight efficientnet.encoder.blocks.1.squeeze_excite.expand.bias
    efficientnet.encoder.blocks.1.projection.project_conv.weight
    efficientnet.encoder.blocks.1.projection.project_bn.weight
    efficientnet.encoder.top_conv.weight efficientnet.encoder.top_bn.weight
    classifier.weight classifier.bias
"""
NORM_ONLY = ("batchnorm.bias", "_norm.bias", "_bn.bias", "running_mean", "running_var")


def file(rename: dict[str, str], num_classes: int = 5) -> dict[str, Shape]:
    """Return the names and shapes of a B0, with some beginnings of names replaced by others."""
    entries = plan(ARCHS["efficientnet_b0"], TRANSFORMERS, num_classes=num_classes)
    shapes = {}
    for entry in entries:
        old = next((old for old in rename if entry.source.startswith(old)), "")
        shapes[rename.get(old, "") + entry.source.removeprefix(old)] = entry.source_shape
    return shapes


def test_names_are_those_that_transformers_writes() -> None:
    sources = [entry.source for entry in plan(ARCHS["efficientnet_b0"], TRANSFORMERS)]
    shown = [name for name in sources if ".blocks." not in name or ".blocks.0." in name or ".blocks.1." in name]
    assert [name for name in shown if not name.endswith(NORM_ONLY)] == LAYERS.split()
    assert "efficientnet.encoder.blocks.15.expansion.expand_bn.running_var" in sources


@pytest.mark.parametrize(
    ("rename", "dialect", "prefix"),
    [
        ({}, TRANSFORMERS, ""),
        ({"": "net.model."}, TRANSFORMERS, "net.model."),
        ({"classifier": "fc"}, TRANSFORMERS_MODEL, "efficientnet."),
        ({"efficientnet": "backbone", "classifier": "head.1"}, TRANSFORMERS_MODEL, "backbone."),
        ({"classifier": "efficientnet.head"}, TRANSFORMERS, ""),
        ({"efficientnet.": "", "classifier": "fc"}, TRANSFORMERS_MODEL, ""),
    ],
)
def test_the_classifier_is_found_beside_the_network(rename: dict[str, str], dialect, prefix: str) -> None:
    shapes = file(rename)
    (found,) = readings(shapes, TORCH_DIALECTS, lambda name: False)
    assert (found.match.num_classes, found.dialect.name, found.prefix) == (5, dialect.name, prefix)
    assert {entry.source: entry.source_shape for entry in found.plan()} == shapes


@pytest.mark.parametrize(
    ("rename", "dialect", "prefix"),
    [
        ({"efficientnet.": ""}, TRANSFORMERS_MODEL, ""),  # EfficientNetModel
        ({"efficientnet.": "encoder."}, TRANSFORMERS_MODEL, "encoder."),
        ({}, TRANSFORMERS, ""),  # with num_labels=0
    ],
)
def test_a_network_without_classifier_is_read_once(rename: dict[str, str], dialect, prefix: str) -> None:
    shapes = file(rename, num_classes=0)
    (found,) = readings(shapes, TORCH_DIALECTS, lambda name: False)
    assert (found.match.num_classes, found.dialect.name, found.prefix) == (0, dialect.name, prefix)
    assert {entry.source: entry.source_shape for entry in found.plan()} == shapes


def test_of_two_networks_each_has_its_classifier() -> None:
    found = readings({**file({"": "student."}), **file({"": "teacher."})}, TORCH_DIALECTS, lambda name: False)
    assert {(one.prefix, one.match.num_classes) for one in found} == {("student.", 5), ("teacher.", 5)}
