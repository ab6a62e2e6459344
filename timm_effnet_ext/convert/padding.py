"""At which image sizes code that pads by fixed numbers of pixels computes what TensorFlow's SAME does.

SAME pads a strided convolution of an odd kernel k by k // 2 - 1 pixels before and k // 2 behind an even size, and by
k // 2 on either side of an odd one. Code that pads by one of the two, whatever comes, computes the same where each of
its strided layers gets a size that it was made for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import prod

from timm_effnet_ext.arch.rows import ARCHS, Arch
from timm_effnet_ext.convert.checkpoint.checkpoint import Statement
from timm_effnet_ext.convert.dialects.match import Candidate


@dataclass(frozen=True)
class SameSizes:
    """The sides in pixels, of height and width alike, that are `offset` more than a multiple of `step`."""

    step: int
    offset: int

    def __contains__(self, side: int) -> bool:
        return side % self.step == self.offset

    def __str__(self) -> str:
        more = f"{self.offset} more than " if self.offset else ""
        first = self.offset or self.step
        return f"{more}a multiple of {self.step} ({', '.join(str(first + n * self.step) for n in range(4, 8))}, …)"

    def nearest(self, side: int) -> int:
        """Return the nearest of them."""
        return max(0 if self.offset else 1, round((side - self.offset) / self.step)) * self.step + self.offset


def sizes_as_stated(candidate: Candidate, statements: Iterable[Statement]) -> SameSizes | None:
    """Return the sides at which the code of a network pads as ours does, where somebody says how it pads."""
    said = (one.symmetric_blocks for one in statements if candidate.dialect.name in one.dialects)
    symmetric = next((blocks for blocks in said if blocks is not None), None)
    match = candidate.match
    return None if symmetric is None else same_sizes(ARCHS[match.arch_name], symmetric, match.depth_mult)


def same_sizes(arch: Arch, symmetric: Collection[int], depth_mult: float = 1.0) -> SameSizes:
    """Return the sides at which a network pads as SAME does, of those that are even.

    Args:
        arch: Its row.
        symmetric: The blocks, counted through the network, whose strided convolution is padded alike on both sides.
            The other strided blocks, and the stem, have one pixel less before than behind.
        depth_mult: Its depth.
    """
    blocks = (block for stage in arch.blocks(depth_mult=depth_mult) for block in stage)
    strided = [(number, block.stride) for number, block in enumerate(blocks) if block.stride > 1]
    step = 2 * prod(stride for _, stride in strided)
    for offset in range(0, step, 2):
        side, fits = (step + offset) // 2, True
        for number, stride in strided:
            fits &= bool(side % 2) == (number in symmetric)
            side = -(-side // stride)
        if fits:
            return SameSizes(step, offset)
    raise AssertionError(f"strides of {arch.name} other than 2")
