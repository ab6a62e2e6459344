"""EfficientNet built from one row, with everything that timm expects of a model."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier, get_act_layer, get_device_dtype
from timm.models import FeatureHooks, FeatureInfo, checkpoint, checkpoint_seq
from torch import Tensor, nn

from timm_effnet_ext.arch.rows import BN_EPS, PREFIX, Arch, Block, drop_path_rates
from timm_effnet_ext.files.hub_format import PREPROCESSING
from timm_effnet_ext.models.blocks import LayerFactory, init_weights, make_block
from timm_effnet_ext.models.freeze import Freezable
from timm_effnet_ext.models.lean import lean_applies, lean_features, lean_stages, warn_unknown
from timm_effnet_ext.models.memory_format import in_fast_format
from timm_effnet_ext.weights.check import NUMERICS, check_state, modules_without_values, placed

_USUAL_ARGS = {**NUMERICS, "width_mult": 1.0, "depth_mult": 1.0}


class _Trunk(Freezable):
    """Stem and blocks: what the classifier and the feature extractor share."""

    def __init__(
        self,
        arch: Arch,
        *,
        in_chans: int = 3,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        output_stride: int = 32,
        pad_type: str = "same",
        bn_eps: float = BN_EPS,
        bn_momentum: float = 0.1,
        act_layer: Any = None,
        norm_layer: Any = None,
        se_layer: Any = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        feature_location: str = "bottleneck",
        lean: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        for name, value in (("width_mult", width_mult), ("depth_mult", depth_mult)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if feature_location not in ("bottleneck", "expansion"):
            raise ValueError(f"feature_location must be 'bottleneck' or 'expansion', got {feature_location!r}")
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        make = LayerFactory(
            act_layer=act_layer or arch.act,
            norm_layer=norm_layer,
            se_layer=se_layer,
            pad_type=pad_type,
            bn_eps=bn_eps,
            bn_momentum=bn_momentum,
            dd={"device": device, "dtype": dtype},
        )
        self._make = make
        is_usual = get_act_layer(act_layer or arch.act) is get_act_layer(arch.act)
        self.numerics = {"pad_type": pad_type, "bn_eps": bn_eps, "act_layer": None if is_usual else act_layer}
        args = {**self.numerics, "width_mult": width_mult, "depth_mult": depth_mult}
        self._described = {
            "architecture": PREFIX + arch.name,
            "model_args": {name: _plain(value) for name, value in args.items() if value != _USUAL_ARGS[name]},
        }
        stem_chs = arch.stem_width(width_mult)
        self.conv_stem = make.conv(in_chans, stem_chs, 3, stride=2)
        self.bn1 = make.norm_act(stem_chs)
        stages = arch.blocks(width_mult, depth_mult)
        self.blocks, self._features = _build_blocks(stages, make, output_stride, drop_path_rate, feature_location)
        self._stage_chs = [stem_chs, *(stage[-1].out_chs for stage in stages)]
        self.set_lean_training(lean)

    def _stem(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            x = in_fast_format(x, self.training)
        return self.bn1(self.conv_stem(x))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Add to the metadata, which `torch.save` keeps with a state_dict, which model the weights are of.

        Shapes do not tell: `architecture` is the registry's name, `model_args` what differs from it, as in config.json,
        and `preprocessing` how the model's own cfg prepares images.
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            cfg = getattr(self, "pretrained_cfg", None) or {}
            prepared = {name: cfg[name] for name in PREPROCESSING if cfg.get(name) is not None}
            table = destination._metadata.setdefault(prefix[:-1], {})
            table.update(copy.deepcopy({**self._described, "preprocessing": prepared}))

    @torch.jit.ignore
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy weights as `nn.Module.load_state_dict` does, refusing another model's and damaged ones.

        Raises:
            CheckpointFormatError: A shape differs, a value is not finite, a variance is negative, or (with `strict`)
                a name is missing or unknown.
        """
        check_state(self, state_dict, strict)
        if not any(p.is_meta for p in self.parameters()):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        result = super().load_state_dict(placed(state_dict, self), strict=strict, assign=True)
        for module in modules_without_values(self):
            module.to_empty(device=torch.get_default_device(), recurse=False)
            init_weights(module)
        return result

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def set_lean_training(self, enable: bool = True) -> None:
        """Keep only convolution outputs for the backward pass, the rest is recomputed; gradients stay the same.

        For eager training: `torch.compile` has its own means, and gradient checkpointing, which keeps even less in
        more time, goes before. Differentiating twice needs it off. Hooks of modules and parameters run as without it;
        what tracks every module of a program at once sees fewer of them.
        """
        self.lean_training = enable
        if enable:
            warn_unknown(self)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the regular expressions by which timm groups parameters, e.g. for layer decay."""
        blocks = r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)"
        return {"stem": r"^conv_stem|bn1", "blocks": [(blocks, None), (r"conv_head|bn2", (99999,))]}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return parameters exempt from weight decay by name: none; timm exempts norms and biases by shape."""
        return set()


class EfficientNet(_Trunk):
    """EfficientNet v1, v2, Lite, EdgeTPU or CondConv classifier.

    Parameter names and shapes are those of timm's `tf_*` model of the same architecture.

    Args:
        arch: Row of `timm_effnet_ext.arch.rows.ARCHS`.
        num_classes: Outputs of the classifier; 0 leaves it out.
        in_chans: Channels of the image.
        global_pool: timm pooling name: "avg", "max", "avgmax", "catavgmax", or "" for none.
        width_mult: Scales the channels (multiples of 8, never down by more than 10 %).
        depth_mult: Scales the blocks per stage, rounded up.
        output_stride: 32, 16, 8, … : later strides become dilations.
        pad_type: "same" (TensorFlow) or "" (symmetric).
        bn_eps: BatchNorm epsilon.
        bn_momentum: BatchNorm momentum in PyTorch's sense (share of the new batch).
        act_layer: Replaces the architecture's activation.
        norm_layer: Replaces BatchNorm.
        se_layer: Replaces squeeze-and-excitation.
        drop_rate: Dropout rate before the classifier.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        freeze: Parts that do not train: "stem", "blocks.0", "blocks.0-3", "head", joined by commas.
        linear_probe: Freeze all but the classifier.
        lean: Train with less memory, see `set_lean_training`.

    Shapes: images (B, in_chans, H, W) -> logits (B, num_classes); features (B, num_features, H/32, W/32).
    """

    drop_rate_at: list[tuple[int, float]]
    """Dropout rates by image size, for progressive learning; other sizes have `drop_rate`."""

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
        make = self._make
        self.num_classes = num_classes
        self.drop_rate_at = []
        self.feature_info = self._features
        self.stage_ends = [f["stage"] for f in self.feature_info]
        self.num_features = arch.head_width(width_mult)
        self.conv_head = make.conv(self.feature_info[-1]["num_chs"], self.num_features)
        self.bn2 = make.norm_act(self.num_features)
        self.global_pool, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, **make.dd
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        init_weights(self)
        self.freeze(freeze, linear_probe)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier: `nn.Linear`, or identity with `num_classes=0`."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one for `num_classes`; None keeps the pooling."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, **get_device_dtype(self)
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        init_weights(self.classifier)
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
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        take, last = self._taps(indices, extra_blocks)
        intermediates = []
        x = self._stem(x)
        if 0 in take:
            intermediates.append(x)
        index = 0
        for index, stage in enumerate(self.blocks[:last] if stop_early else self.blocks, start=1):
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
        """Remove what the given taps do not need; return the taps as indices."""
        taps = range(len(self.blocks) + 1) if extra_blocks else self.stage_ends
        take, last = self._taps(indices, extra_blocks)
        cut = prune_norm or prune_head or last < len(self.blocks)
        num_chs = self._stage_chs[last]
        self.blocks = self.blocks[:last]
        if cut:
            self.conv_head = nn.Identity()
            self.bn2 = nn.Identity()
            self.num_features = self.head_hidden_size = num_chs
            self.reset_classifier(0, "")
        return [list(taps).index(t) for t in take]

    def _taps(self, indices: int | list[int] | None, extra_blocks: bool) -> tuple[list[int], int]:
        """Return the wanted taps as stage numbers (0: stem) and the largest of them."""
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
        take = [taps[i] for i in wanted]
        return take, max(take)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return features (B, num_features, H/32, W/32)."""
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript compiles both sides of an `and`
            if self.lean_training and lean_applies(self, x):
                return lean_features(self, x)
        x = self._stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x, flatten=True)
        else:
            x = self.blocks(x)
        return self.bn2(self.conv_head(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False, drop_rate: float | None = None) -> Tensor:
        """Return logits (B, num_classes), or the pooled features with `pre_logits`; None drops at `drop_rate`."""
        x = self.global_pool(x)
        p = self.drop_rate if drop_rate is None else drop_rate
        if p > 0.0:
            x = F.dropout(x, p=p, training=self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        drop_rate = self.drop_rate
        if self.training:  # else an exporter would tie its graph to a size for nothing
            for size, rate in self.drop_rate_at:
                if size == x.shape[-1]:
                    drop_rate = rate
        return self.forward_head(self.forward_features(x), drop_rate=drop_rate)


class EfficientNetFeatures(_Trunk):
    """Backbone that returns the feature maps of `out_indices`, from stride 2 to stride 32.

    `feature_location="expansion"` taps the expanded features before the last projection of each resolution.
    """

    def __init__(
        self, arch: Arch, *, out_indices: Sequence[int] = (0, 1, 2, 3, 4), freeze: str = "", **kwargs: Any
    ) -> None:
        super().__init__(arch, **kwargs)
        self.feature_info = FeatureInfo(self._features, tuple(out_indices))
        self._stages = [f["stage"] for f in self.feature_info.get_dicts()]
        init_weights(self)
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
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript compiles both sides of an `and`
            if self.lean_training and lean_applies(self, x):
                return [output.value() for output in lean_stages(self, x)]
        x = self._stem(x)
        outputs = [x]
        for stage in self.blocks:
            x = checkpoint(stage, x) if self.grad_checkpointing and not torch.jit.is_scripting() else stage(x)
            outputs.append(x)
        return outputs


def _plain(value: Any) -> str | int | float:
    """Return an argument as what `torch.load` takes of any file; a class or function is its name."""
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    return str(getattr(value, "__name__", value))


def _build_blocks(
    stages: tuple[tuple[Block, ...], ...],
    make: LayerFactory,
    output_stride: int,
    drop_path_rate: float,
    feature_location: str,
) -> tuple[nn.Sequential, list[dict[str, Any]]]:
    """Return the stages as modules and timm's feature_info: one tap per resolution, at its last stage."""
    rates = iter(drop_path_rates(sum(map(len, stages)), drop_path_rate))
    reduction, dilation = 2, 1
    modules, features = [], []
    for s, stage in enumerate(stages):
        blocks = []
        for block in stage:
            stride, block_dilation = block.stride, dilation
            if stride > 1 and reduction * stride > output_stride:
                dilation *= stride
                stride = 1
            reduction *= stride
            blocks.append(make_block(block, make, stride=stride, dilation=block_dilation, drop_path=next(rates)))
        modules.append(nn.Sequential(*blocks))
        if s + 1 == len(stages) or stages[s + 1][0].stride > 1:
            tap = {"stage": s + 1, "reduction": reduction, "module": f"blocks.{s}", "num_chs": stage[-1].out_chs}
            if feature_location == "expansion":
                tap |= _expansion_tap(stage[-1])
            features.append(tap)
    return nn.Sequential(*modules), features


def _expansion_tap(block: Block) -> dict[str, Any]:
    """Return where the expanded features of `block` can be hooked, and how many channels they have."""
    path = f"blocks.{block.stage}.{block.index}"
    if block.kind == ("fused", False):  # no projection: its output is what it expanded to
        return {"module": f"{path}.bn1", "hook_type": "forward", "num_chs": block.out_chs}
    projection = "conv_pwl" if block.expand != 1 else "conv_pw"
    return {"module": f"{path}.{projection}", "hook_type": "forward_pre", "num_chs": block.mid_chs}
