"""The 29 architectures as rows of data, and the rules that scale them (standard library only)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

from timm_effnet_ext.errors import EffNetExtError

PREFIX, TIMM_PREFIX = "hucorz_", "tf_"
"""Registry names of an architecture, ours and timm's = prefix + its row's name."""

CHANNEL_DIVISOR = 8
ROUND_LIMIT = 0.9  # never round channels down by more than 10 %: tpu efficientnet_model.py round_filters
SE_RATIO = 0.25
BN_EPS = 1e-3  # tensorflow/tpu efficientnet_builder.py `batch_norm_epsilon`

Op = Literal["mb", "fused", "cond"]


class Stage(NamedTuple):
    """One row of a paper's architecture table.

    `op` is MBConv ("mb"), Fused-MBConv ("fused"), or MBConv of CondConvs ("cond"), whose kernels are mixed for each
    image; without expansion the first two become a depthwise-separable convolution and a plain convolution. `stride`
    belongs to the first block. `se` is the squeeze ratio relative to the block's *input* channels (0: none).
    """

    op: Op
    repeat: int
    kernel: int
    stride: int
    expand: int
    out_chs: int
    se: float = 0.0
    nominal_in_chs: int = 0  # EdgeTPU: expansion is computed from this, not from the real input, and has no shortcut


@dataclass(frozen=True)
class Block:
    """One block after scaling: what a block class is built from."""

    stage: int
    index: int  # within its stage
    op: Op
    in_chs: int
    mid_chs: int  # after expansion; equals in_chs where there is none
    out_chs: int
    kernel: int
    stride: int
    expand: int
    se_chs: int  # 0: no squeeze-and-excitation
    shortcut: bool
    experts: int = 0  # kernels of each convolution that are mixed; 0: one, which is not

    @property
    def kind(self) -> tuple[Op, bool]:
        """(op, has an expansion convolution): the key of every table of block kinds."""
        return self.op, self.expand != 1


@dataclass(frozen=True)
class Arch:
    """One architecture: a stage table, its scaling and what training used.

    Channels are numbers of feature maps, sizes are pixels (square images), rates are fractions.
    """

    name: str
    stages: tuple[Stage, ...]
    width: float
    depth: float
    train_size: int
    eval_size: int
    drop_rate: float  # of the classifier, in the original training
    stem_chs: int = 32
    head_chs: int = 1280
    act: str = "silu"
    round_limit: float = ROUND_LIMIT
    fixed_ends: bool = False  # Lite: stem, head, and the depth of the first and last stage do not scale
    scale_head: bool = True
    experts: int = 0  # of each convolution of its "cond" stages

    def blocks(self, width_mult: float = 1.0, depth_mult: float = 1.0) -> tuple[tuple[Block, ...], ...]:
        """Return the scaled blocks, stage by stage."""
        in_chs = self.stem_width(width_mult)
        stages = []
        for s, (stage, repeat) in enumerate(zip(self.stages, self.depths(depth_mult), strict=True)):
            out_chs = self._round(stage.out_chs, width_mult)
            blocks = []
            for i in range(repeat):
                stride = stage.stride if i == 0 else 1
                nominal = self._round(stage.nominal_in_chs, width_mult) if stage.nominal_in_chs else in_chs
                blocks.append(
                    Block(
                        stage=s,
                        index=i,
                        op=stage.op,
                        in_chs=in_chs,
                        mid_chs=nominal * stage.expand if stage.expand != 1 else in_chs,
                        out_chs=out_chs,
                        kernel=stage.kernel,
                        stride=stride,
                        expand=stage.expand,
                        se_chs=int(in_chs * stage.se) if stage.se else 0,
                        shortcut=stride == 1 and in_chs == out_chs and not stage.nominal_in_chs,
                        experts=self.experts if stage.op == "cond" else 0,
                    )
                )
                in_chs = out_chs
            stages.append(tuple(blocks))
        return tuple(stages)

    def depths(self, depth_mult: float = 1.0) -> tuple[int, ...]:
        """Return the number of blocks of each stage."""
        return tuple(
            round_repeats(stage.repeat, self.depth * depth_mult) if self.scales_in_depth(s) else stage.repeat
            for s, stage in enumerate(self.stages)
        )

    def scales_in_depth(self, stage: int) -> bool:
        """Whether the number of blocks of a stage follows the depth multiplier."""
        return not (self.fixed_ends and stage in (0, len(self.stages) - 1))

    def stem_width(self, width_mult: float = 1.0) -> int:
        """Return the output channels of the stem convolution."""
        return self.stem_chs if self.fixed_ends else self._round(self.stem_chs, width_mult)

    def head_width(self, width_mult: float = 1.0) -> int:
        """Return the output channels of the head convolution: the features that the classifier sees."""
        return self._round(self.head_chs, width_mult) if self.scale_head else self.head_chs

    def _round(self, chs: int, width_mult: float) -> int:
        # A row's own limit belongs to its published width; any other width follows the v1 paper's rule.
        limit = self.round_limit if width_mult == 1 else ROUND_LIMIT
        return round_channels(chs, self.width * width_mult, limit)


def row_name(name: str) -> str:
    """Return the row's name in a registry name, ours or timm's."""
    return name.removeprefix(PREFIX).removeprefix(TIMM_PREFIX)


def round_channels(chs: int, width: float, limit: float = ROUND_LIMIT) -> int:
    """Return `chs * width` as the nearest multiple of 8, raised by 8 when that falls below `limit` of it.

    Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py `round_filters`.
    """
    scaled = chs * width
    rounded = max(CHANNEL_DIVISOR, int(scaled + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR)
    return rounded + CHANNEL_DIVISOR if rounded < limit * scaled else rounded


def round_repeats(repeat: int, depth: float) -> int:
    """Return the number of blocks of a stage, rounded up.

    Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py `round_repeats`.
    """
    return math.ceil(repeat * depth)


def drop_path_rates(n: int, rate: float) -> tuple[float, ...]:
    """Return the stochastic-depth rate of each of `n` blocks: linear in the block index, `rate * i / n`.

    Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py `call` (drop_connect_rate).
    """
    return tuple(rate * i / n for i in range(n))


# EfficientNet: arXiv:1905.11946 Table 1; tensorflow/tpu efficientnet_builder.py `_DEFAULT_BLOCKS_ARGS`
V1 = (
    #     op       repeat  k  s  expand  out  se
    Stage("mb",    1,      3, 1, 1,      16,  SE_RATIO),
    Stage("mb",    2,      3, 2, 6,      24,  SE_RATIO),
    Stage("mb",    2,      5, 2, 6,      40,  SE_RATIO),
    Stage("mb",    3,      3, 2, 6,      80,  SE_RATIO),
    Stage("mb",    3,      5, 1, 6,      112, SE_RATIO),
    Stage("mb",    4,      5, 2, 6,      192, SE_RATIO),
    Stage("mb",    1,      3, 1, 6,      320, SE_RATIO),
)  # fmt: skip

# EfficientNet-Lite: the same table without squeeze-and-excitation; tensorflow/tpu lite/efficientnet_lite_builder.py
LITE = tuple(stage._replace(se=0.0) for stage in V1)

# EfficientNet-CondConv (arXiv:1904.04971): the same table, its last three stages with CondConv;
# tensorflow/tpu condconv/efficientnet_condconv_builder.py
V1_COND = (*V1[:4], *(stage._replace(op="cond") for stage in V1[4:]))

# EfficientNet-EdgeTPU: tensorflow/tpu edgetpu/efficientnet_edgetpu_builder.py
EDGE = (
    #     op       repeat  k  s  expand  out  se  nominal input
    Stage("fused", 1,      3, 1, 4,      24,  0.0, 24),
    Stage("fused", 2,      3, 2, 8,      32),
    Stage("fused", 4,      3, 2, 8,      48),
    Stage("mb",    5,      5, 2, 8,      96),
    Stage("mb",    4,      5, 1, 8,      144),
    Stage("mb",    2,      5, 2, 8,      192),
)  # fmt: skip

# EfficientNetV2-B0…B3: google/automl efficientnetv2/effnetv2_configs.py `v2_base_block`
V2_BASE = (
    Stage("fused", 1,      3, 1, 1,      16),
    Stage("fused", 2,      3, 2, 4,      32),
    Stage("fused", 2,      3, 2, 4,      48),
    Stage("mb",    3,      3, 2, 4,      96,  SE_RATIO),
    Stage("mb",    5,      3, 1, 6,      112, SE_RATIO),
    Stage("mb",    8,      3, 2, 6,      192, SE_RATIO),
)  # fmt: skip

# EfficientNetV2-S: arXiv:2104.00298 Table 4; google/automl efficientnetv2/effnetv2_configs.py `v2_s_block`
V2_S = (
    Stage("fused", 2,      3, 1, 1,      24),
    Stage("fused", 4,      3, 2, 4,      48),
    Stage("fused", 4,      3, 2, 4,      64),
    Stage("mb",    6,      3, 2, 4,      128, SE_RATIO),
    Stage("mb",    9,      3, 1, 6,      160, SE_RATIO),
    Stage("mb",    15,     3, 2, 6,      256, SE_RATIO),
)  # fmt: skip

# google/automl efficientnetv2/effnetv2_configs.py `v2_m_block`, `v2_l_block`, `v2_xl_block`
V2_M = (
    Stage("fused", 3,      3, 1, 1,      24),
    Stage("fused", 5,      3, 2, 4,      48),
    Stage("fused", 5,      3, 2, 4,      80),
    Stage("mb",    7,      3, 2, 4,      160, SE_RATIO),
    Stage("mb",    14,     3, 1, 6,      176, SE_RATIO),
    Stage("mb",    18,     3, 2, 6,      304, SE_RATIO),
    Stage("mb",    5,      3, 1, 6,      512, SE_RATIO),
)  # fmt: skip

V2_L = (
    Stage("fused", 4,      3, 1, 1,      32),
    Stage("fused", 7,      3, 2, 4,      64),
    Stage("fused", 7,      3, 2, 4,      96),
    Stage("mb",    10,     3, 2, 4,      192, SE_RATIO),
    Stage("mb",    19,     3, 1, 6,      224, SE_RATIO),
    Stage("mb",    25,     3, 2, 6,      384, SE_RATIO),
    Stage("mb",    7,      3, 1, 6,      640, SE_RATIO),
)  # fmt: skip

V2_XL = (
    Stage("fused", 4,      3, 1, 1,      32),
    Stage("fused", 8,      3, 2, 4,      64),
    Stage("fused", 8,      3, 2, 4,      96),
    Stage("mb",    16,     3, 2, 4,      192, SE_RATIO),
    Stage("mb",    24,     3, 1, 6,      256, SE_RATIO),
    Stage("mb",    32,     3, 2, 6,      512, SE_RATIO),
    Stage("mb",    8,      3, 1, 6,      640, SE_RATIO),
)  # fmt: skip


class _Archs(Mapping[str, Arch]):
    """Read-only name -> row; an unknown name raises with the nearest ones."""

    def __init__(self, rows: Iterable[Arch]) -> None:
        rows = tuple(rows)
        self._rows = MappingProxyType({row.name: row for row in rows})
        if len(self._rows) != len(rows):
            raise ValueError("two architectures share a name")

    def __getitem__(self, name: str) -> Arch:
        if name not in self._rows:
            near = difflib.get_close_matches(name, self._rows, n=3) or [row for row in self._rows if name in row]
            advice = f"did you mean {', '.join(near[:3])}?" if name and near else "`timm-effnet-ext list` prints them"
            raise KeyError(f"no architecture {name!r}; {advice}")
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


_Lite = partial(Arch, act="relu6", fixed_ends=True, scale_head=False)
_Base = partial(Arch, round_limit=0.0)  # automl effnetv2_model.py `round_filters` has no 10 % rule
_Edge = partial(Arch, act="relu")

# Sizes and dropout: tensorflow/tpu efficientnet_builder.py `efficientnet_params`, efficientnet_lite_builder.py,
# efficientnet_edgetpu_builder.py, efficientnet_condconv_builder.py; google/automl effnetv2_configs.py
# `efficientnetv2_params`. Of Lite3, Lite4 and the deeper CondConv, which these files evaluate at 280, 300 and 224,
# timm's cfgs have 300, 380 and 240: a pretrained model goes by its cfg.
ARCHS = _Archs([
    #      name                 stages   width depth train eval drop
    Arch(  "efficientnet_b0",    V1,      1.0,  1.0,  224,  224, 0.2),
    Arch(  "efficientnet_b1",    V1,      1.0,  1.1,  240,  240, 0.2),
    Arch(  "efficientnet_b2",    V1,      1.1,  1.2,  260,  260, 0.3),
    Arch(  "efficientnet_b3",    V1,      1.2,  1.4,  300,  300, 0.3),
    Arch(  "efficientnet_b4",    V1,      1.4,  1.8,  380,  380, 0.4),
    Arch(  "efficientnet_b5",    V1,      1.6,  2.2,  456,  456, 0.4),
    Arch(  "efficientnet_b6",    V1,      1.8,  2.6,  528,  528, 0.5),
    Arch(  "efficientnet_b7",    V1,      2.0,  3.1,  600,  600, 0.5),
    Arch(  "efficientnet_b8",    V1,      2.2,  3.6,  672,  672, 0.5),
    Arch(  "efficientnet_l2",    V1,      4.3,  5.3,  800,  800, 0.5),
    _Base( "efficientnetv2_b0",  V2_BASE, 1.0,  1.0,  192,  224, 0.2),
    _Base( "efficientnetv2_b1",  V2_BASE, 1.0,  1.1,  192,  240, 0.2),
    _Base( "efficientnetv2_b2",  V2_BASE, 1.1,  1.2,  208,  260, 0.3),
    _Base( "efficientnetv2_b3",  V2_BASE, 1.2,  1.4,  240,  300, 0.3),
    Arch(  "efficientnetv2_s",   V2_S,    1.0,  1.0,  300,  384, 0.2, stem_chs=24),
    Arch(  "efficientnetv2_m",   V2_M,    1.0,  1.0,  384,  480, 0.3, stem_chs=24),
    Arch(  "efficientnetv2_l",   V2_L,    1.0,  1.0,  384,  480, 0.4),
    Arch(  "efficientnetv2_xl",  V2_XL,   1.0,  1.0,  384,  512, 0.4),
    _Lite( "efficientnet_lite0", LITE,    1.0,  1.0,  224,  224, 0.2),
    _Lite( "efficientnet_lite1", LITE,    1.0,  1.1,  240,  240, 0.2),
    _Lite( "efficientnet_lite2", LITE,    1.1,  1.2,  260,  260, 0.3),
    _Lite( "efficientnet_lite3", LITE,    1.2,  1.4,  280,  280, 0.3),
    _Lite( "efficientnet_lite4", LITE,    1.4,  1.8,  300,  300, 0.3),
    _Edge( "efficientnet_es",    EDGE,    1.0,  1.0,  224,  224, 0.2),
    _Edge( "efficientnet_em",    EDGE,    1.0,  1.1,  240,  240, 0.2),
    _Edge( "efficientnet_el",    EDGE,    1.2,  1.4,  300,  300, 0.3),
    Arch(  "efficientnet_cc_b0_4e", V1_COND, 1.0, 1.0, 224, 224, 0.25, experts=4),
    Arch(  "efficientnet_cc_b0_8e", V1_COND, 1.0, 1.0, 224, 224, 0.25, experts=8),
    Arch(  "efficientnet_cc_b1_8e", V1_COND, 1.0, 1.1, 224, 224, 0.25, experts=8),
])  # fmt: skip


def parse_model_name(text: str) -> tuple[Arch, str]:
    """Return the row and the weight tag ("" for none) of `[hucorz_]NAME[.TAG]`.

    Raises:
        EffNetExtError: No architecture has that name; the nearest ones are in the message.
    """
    name, _, tag = text.removeprefix(PREFIX).partition(".")
    try:
        return ARCHS[name], tag
    except KeyError as err:
        raise EffNetExtError(err.args[0]) from err
