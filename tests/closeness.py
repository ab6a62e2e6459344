"""How tests compare floating-point results: by the norm of the difference, relative to that of what is expected.

Which kernel computes a result, and thus the order of its sums, depends on the processor. An element near zero can then
differ by any factor of itself; the norm over all elements differs by what rounding does to the result as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# Roundings are 6e-8 of a value in float32, 1e-16 in float64. Through the layers of a network they add up to 2e-5 and
# 1e-9 at most, whatever the processor; a mistake in one layer shows at 1e-2.
FLOAT32 = 1e-4
FLOAT64 = 1e-8


def distance(found: Any, expected: Any, floor: float = 0.0) -> float:
    """Return how far one tensor or array is from another of its shape, relative to the other's norm.

    `floor` takes the place of a norm below it. What is not finite gives a distance that is no number.
    """
    found, expected = (torch.as_tensor(value).detach().double() for value in (found, expected))
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm().clamp(min=floor))


def assert_close(found: Any, expected: Any, within: float) -> None:
    """Compare two tensors or arrays."""
    off = distance(found, expected)
    assert off <= within, f"off by {off:.1e} of the norm, allowed {within:.0e}"


def assert_each_close(found: Mapping[str, Any], expected: Mapping[str, Any], within: float) -> None:
    """Compare tensors by name, each relative to its own norm.

    A gradient that is zero but for rounding, as that of a bias before a BatchNorm, is held to the largest instead.
    """
    assert found.keys() == expected.keys()
    floor = 1e-6 * max(float(value.detach().double().norm()) for value in expected.values())
    off = {name: distance(found[name], value, floor) for name, value in expected.items()}
    assert all(one <= within for one in off.values()), f"allowed {within:.0e}, off by {off}"
