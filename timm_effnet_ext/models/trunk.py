"""Stem and blocks of a network, built from its row: the whole feature extractor, all but the head of the classifier."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from timm.layers import get_act_layer
from timm.models import FeatureHooks, FeatureInfo, checkpoint
from torch import Tensor, nn

from timm_effnet_ext.arch.rows import BN_EPS, PREFIX, Arch, Block, drop_path_rates
from timm_effnet_ext.files.hub_format import PREPROCESSING
from timm_effnet_ext.models.blocks import BLOCKS, LayerFactory, init_weights
from timm_effnet_ext.models.chains import warn_unknown
from timm_effnet_ext.models.freeze import Freezable
from timm_effnet_ext.models.layers import in_fast_format
from timm_effnet_ext.models.lean import lean_applies, lean_stages
from timm_effnet_ext.weights.check import NUMERICS, check_state, place_values

_USUAL_ARGS = {**NUMERICS, "width_mult": 1.0, "depth_mult": 1.0}


class Trunk(Freezable):
    """Stem and blocks, the arguments that shape them, and what timm and torch ask of either network.

    Args:
        arch: Row of `timm_effnet_ext.arch.rows.ARCHS`.
        in_chans: Channels of the image.
        width_mult: Scales the channels (multiples of 8, never down by more than 10 %).
        depth_mult: Scales the blocks per stage, rounded up.
        output_stride: 32, 16, 8, … : later strides become dilations.
        pad_type: "same" (TensorFlow) or "" (symmetric).
        bn_eps: BatchNorm epsilon: 1e-3 in TensorFlow, 1e-5 in PyTorch.
        bn_momentum: BatchNorm momentum in PyTorch's sense (share of the new batch).
        act_layer: Replaces the architecture's activation.
        norm_layer: Replaces BatchNorm.
        se_layer: Replaces squeeze-and-excitation.
        drop_rate: Dropout rate before the classifier.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        feature_location: Which maps `features_only` gives: "bottleneck", a stage's outputs, or "expansion", what is
            expanded before its last projection.
        lean: Train with less memory, see `set_lean_training`.
        device: Where the parameters are made.
        dtype: Their type.

    Raises:
        ValueError: A number that must be positive is not, or another location is asked for.
    """

    packing = None
    """How a copy that `optimize_for_inference` made is computed on a CPU."""

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
        _check_arguments(in_chans, width_mult, depth_mult, feature_location)
        self.in_chans, self.drop_rate = in_chans, drop_rate
        self.grad_checkpointing = False
        self._make = make = LayerFactory(
            act_layer=act_layer or arch.act,
            norm_layer=norm_layer,
            se_layer=se_layer,
            pad_type=pad_type,
            bn_eps=bn_eps,
            bn_momentum=bn_momentum,
            dd={"device": device, "dtype": dtype},
        )
        is_usual = act_layer is None or get_act_layer(act_layer) is get_act_layer(arch.act)
        self.numerics = {"pad_type": pad_type, "bn_eps": bn_eps, "act_layer": None if is_usual else act_layer}
        self.described = _describe(arch, {**self.numerics, "width_mult": width_mult, "depth_mult": depth_mult})
        stem_chs = arch.stem_width(width_mult)
        self.conv_stem = make.conv(in_chans, stem_chs, 3, stride=2)
        self.bn1 = make.norm_act(stem_chs)
        stages = arch.blocks(width_mult, depth_mult)
        self.blocks, self._features = _build_blocks(stages, make, output_stride, drop_path_rate, feature_location)
        self._stage_chs = [stem_chs, *(stage[-1].out_chs for stage in stages)]
        self.set_lean_training(lean)
        self.register_state_dict_post_hook(_sign)

    def _stem(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            x = in_fast_format(x, self.training)
        return self.bn1(self.conv_stem(x))

    @torch.jit.ignore
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy weights as `nn.Module.load_state_dict` does, refusing another model's and damaged ones.

        Args:
            state_dict: Name -> tensor, as `state_dict` gives.
            strict: Refuse it also where it has other names than the model.
            assign: Take the tensors themselves instead of copying their values.

        Raises:
            CheckpointFormatError: A shape differs, a value is not finite, a variance is negative, or (with `strict`)
                a name is missing or unknown.
        """
        check_state(self, state_dict, strict)
        if not any(p.is_meta for p in self.parameters()):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        result = super().load_state_dict(place_values(state_dict, self), strict=strict, assign=True)
        for module in self.modules():
            if any(p.is_meta for p in module.parameters(recurse=False)):  # e.g. the classifier of other classes
                module.to_empty(device=torch.get_default_device(), recurse=False)
                init_weights(module)
        return result

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass; `enable=False` keeps them again."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def set_lean_training(self, enable: bool = True) -> None:
        """Keep only convolution outputs for the backward pass, the rest is recomputed; gradients stay the same.

        With `enable=False` everything is kept again.

        For eager training: `torch.compile` has its own means, and gradient checkpointing, which keeps even less in
        more time, goes before. Differentiating twice needs it off. Hooks of modules and parameters run as without it;
        what tracks every module of a program at once sees fewer of them.
        """
        self.lean_training = enable
        if enable:
            warn_unknown(self)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the regular expressions by which timm groups parameters, e.g. for layer decay.

        Groups are blocks, or with `coarse` stages.
        """
        blocks = r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)"
        return {"stem": r"^conv_stem|bn1", "blocks": [(blocks, None), (r"conv_head|bn2", (99999,))]}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return parameters exempt from weight decay by name: none; timm exempts norms and biases by shape."""
        return set()


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


def _sign(model: Any, state_dict: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Add to the metadata, which `torch.save` keeps with a state_dict, which model the weights are of.

    Shapes do not tell: `architecture` is the registry's name, `model_args` what differs from it, as in config.json,
    and `preprocessing` how the model's own cfg prepares images.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    prepared = {name: cfg[name] for name in PREPROCESSING if cfg.get(name) is not None}
    metadata.update(copy.deepcopy({**model.described, "preprocessing": prepared}))


def _describe(arch: Arch, args: dict[str, Any]) -> dict[str, Any]:
    """Return the name of a network and those of its arguments that are not the usual ones."""
    unusual = {name: _plain(value) for name, value in args.items() if value != _USUAL_ARGS[name]}
    return {"architecture": PREFIX + arch.name, "model_args": unusual}


def _plain(value: Any) -> str | int | float:
    """Return an argument as what `torch.load` takes of any file; a class or function is its name."""
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    return str(getattr(value, "__name__", value))


def _check_arguments(in_chans: int, width_mult: float, depth_mult: float, feature_location: str) -> None:
    for name, value in (("in_chans", in_chans), ("width_mult", width_mult), ("depth_mult", depth_mult)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if feature_location not in ("bottleneck", "expansion"):
        raise ValueError(f"feature_location must be 'bottleneck' or 'expansion', got {feature_location!r}")


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
            made = BLOCKS[block.kind](block, make, stride=stride, dilation=block_dilation, drop_path=next(rates))
            blocks.append(made)
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
