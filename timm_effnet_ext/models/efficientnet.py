"""The classifier built from one row, with everything that timm expects of a model."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier, get_device_dtype
from timm.models import checkpoint_seq
from torch import Tensor, nn

from timm_effnet_ext.arch.rows import Arch
from timm_effnet_ext.models.blocks import init_weights
from timm_effnet_ext.models.lean import lean_applies, lean_features
from timm_effnet_ext.models.trunk import Trunk


class EfficientNet(Trunk):
    """EfficientNet v1, v2, Lite, EdgeTPU or CondConv classifier.

    Parameter names and shapes are those of timm's `tf_*` model of the same architecture.
    `timm.create_model("hucorz_…")` makes it, and hands on all arguments below but `arch`.

    Args:
        arch: Row of `timm_effnet_ext.arch.rows.ARCHS`: the name that `create_model` is given says which.
        num_classes: Outputs of the classifier; 0 leaves it out.
        global_pool: timm pooling name: "avg", "max", "avgmax", "catavgmax", or "" for none.
        width_mult: Scales the channels, as in `Trunk`.
        freeze: Parts that do not train: "stem", "blocks.0", "blocks.0-3", "head", joined by commas.
        linear_probe: Freeze all but the classifier.
        **kwargs: Those of `Trunk`.

    Raises:
        ValueError: A number that must be positive is not, or a part to freeze does not exist.

    Shapes: images (B, in_chans, H, W) -> logits (B, num_classes); features (B, num_features, H/32, W/32).
    """

    def __init__(
        self,
        arch: Arch,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        width_mult: float = 1.0,
        freeze: str = "",
        linear_probe: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(arch, width_mult=width_mult, **kwargs)
        self.num_classes = num_classes
        self.feature_info = self._features
        self.stage_ends = [f["stage"] for f in self.feature_info]
        self.num_features = arch.head_width(width_mult)
        self.conv_head = self._make.conv(self.feature_info[-1]["num_chs"], self.num_features)
        self.bn2 = self._make.norm_act(self.num_features)
        self.global_pool, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, **self._make.dd
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        init_weights(self)
        if freeze or linear_probe:
            self.freeze(freeze, linear_probe)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier: `nn.Linear`, or identity with `num_classes=0`."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one for `num_classes`; `global_pool=None` keeps the pooling.

        It is drawn as timm's is, within 1 / sqrt(features). Google's draw for a new model, 1 / sqrt(classes), is made
        for 1000 classes: with 2 the outputs of trained features begin so far off that a run is spent on undoing them.
        """
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, **get_device_dtype(self)
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.classifier.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        extra_blocks: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return (features, intermediates), or the intermediates alone.

        Args:
            x: Images (B, C, H, W).
            indices: The last n taps if an int, all if None, else these.
            norm: Accepted for timm's interface; no intermediate has a norm of its own.
            stop_early: Stop after the last wanted tap.
            output_fmt: "NCHW", the only layout.
            intermediates_only: Return the list alone.
            extra_blocks: Tap the stem and every stage instead of each resolution's last stage.

        Raises:
            ValueError: There is no such tap, or another layout is asked for.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        _, take = self._taps(indices, extra_blocks)
        intermediates = []
        x = self._stem(x)
        if 0 in take:
            intermediates.append(x)
        index = 0
        for index, stage in enumerate(self.blocks[: max(take)] if stop_early else self.blocks, start=1):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
            if index in take:
                intermediates.append(x)
        if intermediates_only:
            return intermediates
        if index == self.stage_ends[-1]:
            x = self.bn2(self.conv_head(x))
        return x, intermediates

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
        extra_blocks: bool = False,
    ) -> list[int]:
        """Remove what the given taps do not need; return the taps as indices.

        Args:
            indices: As for `forward_intermediates`.
            prune_norm: The same as `prune_head`, which it does alone, too.
            prune_head: Remove `conv_head`, `bn2` and the classifier even where every stage stays.
            extra_blocks: As for `forward_intermediates`.

        Raises:
            ValueError: There is no such tap.
        """
        wanted, take = self._taps(indices, extra_blocks)
        last = max(take)
        if prune_norm or prune_head or last < len(self.blocks):
            self.conv_head = nn.Identity()
            self.bn2 = nn.Identity()
            self.num_features = self.head_hidden_size = self._stage_chs[last]
            self.reset_classifier(0, "")
        self.blocks = self.blocks[:last]
        return wanted

    def _taps(self, indices: int | list[int] | None, extra_blocks: bool) -> tuple[list[int], list[int]]:
        """Return the wanted taps by index, and as stage numbers (0: stem)."""
        taps = list(range(len(self.blocks) + 1)) if extra_blocks else self.stage_ends
        n = len(taps)
        if indices is None:
            indices = n
        if isinstance(indices, int):
            if not 0 < indices <= n:
                raise ValueError(f"last-n ({indices}) is out of range (1 to {n})")
            wanted = list(range(n - indices, n))
        else:
            for i in indices:
                if not -n <= i < n:
                    raise ValueError(f"feature index {i} is out of range (0 to {n - 1})")
            wanted = [i % n for i in indices]
        return wanted, [taps[i] for i in wanted]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last features (B, num_features, H/32, W/32) of images `x`, (B, in_chans, H, W)."""
        if not torch.jit.is_scripting():
            if self.lean_training and lean_applies(self, x):
                return lean_features(self, x)
            if self.packing is not None and self.packing.applies(self, x):
                return self.packing.features(self, x)
        x = self._stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x, flatten=True)
        else:
            x = self.blocks(x)
        return self.bn2(self.conv_head(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, num_classes) of features `x`, or with `pre_logits` what is pooled of them."""
        x = self.global_pool(x)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
