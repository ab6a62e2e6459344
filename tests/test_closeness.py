"""The comparison that other tests rest on passes roundings, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.closeness import FLOAT32, FLOAT64, assert_close, assert_each_close

EXPECTED = torch.tensor([1.0, 2.0, 1e-9])


def test_the_rounding_of_an_element_near_zero_is_close() -> None:
    assert_close(torch.tensor([1.0, 2.0, -1e-7]), EXPECTED, FLOAT32)


@pytest.mark.parametrize(
    "found",
    [EXPECTED * 1.001, EXPECTED.flip(0), EXPECTED[:1], EXPECTED[None], EXPECTED / 0, torch.tensor([1, 2, torch.nan])],
    ids=str,
)
def test_all_else_is_not(found: Tensor) -> None:
    with pytest.raises(AssertionError):
        assert_close(found, EXPECTED, FLOAT32)


def test_nothing_is_close_to_what_is_not_finite() -> None:
    with pytest.raises(AssertionError):
        assert_close(EXPECTED / 0, EXPECTED / 0, FLOAT32)


@pytest.mark.parametrize(("noise", "is_close"), [(1e-15, True), (1e-6, False)])
def test_a_gradient_of_zero_is_held_to_the_largest(noise: float, is_close: bool) -> None:
    expected = {"weight": EXPECTED.double(), "bias": torch.zeros(3, dtype=torch.float64)}
    found = {**expected, "bias": expected["bias"] + noise}
    if is_close:
        assert_each_close(found, expected, FLOAT64)
    else:
        with pytest.raises(AssertionError, match="'bias'"):
            assert_each_close(found, expected, FLOAT64)


def test_a_name_that_is_missing_is_not_close() -> None:
    with pytest.raises(AssertionError):
        assert_each_close({}, {"weight": EXPECTED}, FLOAT32)
