"""A network without its head that returns feature maps, as timm's `features_only=True` asks for."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import FeatureHooks, FeatureInfo, checkpoint
from torch import Tensor

from timm_effnet_ext.arch.rows import Arch
from timm_effnet_ext.models.blocks import init_weights
from timm_effnet_ext.models.lean import lean_applies, lean_stages
from timm_effnet_ext.models.trunk import Trunk


class EfficientNetFeatures(Trunk):
    """Backbone that returns feature maps; `timm.create_model("hucorz_…", features_only=True)` makes it.

    Args:
        arch: Row of `timm_effnet_ext.arch.rows.ARCHS`.
        out_indices: Which maps, counted from stride 2 (0) to stride 32 (4).
        freeze: Parts that do not train: "stem", "blocks.0", "blocks.0-3", joined by commas.
        **kwargs: Those of `Trunk`.

    Raises:
        ValueError: A number that must be positive is not, or a part to freeze does not exist.

    Shapes: images (B, in_chans, H, W) -> list of (B, C, H/stride, W/stride), rounded up; `feature_info` has each C.
    """

    def __init__(
        self, arch: Arch, *, out_indices: Sequence[int] = (0, 1, 2, 3, 4), freeze: str = "", **kwargs: Any
    ) -> None:
        super().__init__(arch, **kwargs)
        self.feature_info = FeatureInfo(self._features, tuple(out_indices))
        self._stages = [f["stage"] for f in self.feature_info.get_dicts()]
        init_weights(self)
        if freeze:
            self.freeze(freeze)  # before the hooks, as it replaces norms
        self.feature_hooks = None
        if kwargs.get("feature_location", "bottleneck") == "expansion":
            hooks = self.feature_info.get_dicts(keys=["module", "hook_type"])
            self.feature_hooks = FeatureHooks(hooks, self.named_modules())

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = self._outputs(x)
        if self.feature_hooks is not None:
            return list(self.feature_hooks.get_output(x.device).values())
        return [outputs[i] for i in self._stages]

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the stem and of each stage."""
        if not torch.jit.is_scripting():
            if self.lean_training and lean_applies(self, x):
                return [output.value() for output in lean_stages(self, x)]
            if self.packing is not None and self.packing.applies(self, x):
                return self.packing.stages(self, x)
        x = self._stem(x)
        outputs = [x]
        for stage in self.blocks:
            x = checkpoint(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
            outputs.append(x)
        return outputs
