"""Freezes parts of a model: their parameters do not train and their BatchNorm statistics do not move."""
# No postponed annotations here: TorchScript of an fx graph needs the types themselves.

import difflib
import re
from typing import Any, TypeVar

import torch.nn.functional as F
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from timm.models import register_notrace_module
from torch import Tensor, nn

from timm_effnet_ext.hosts import is_intercepted

_RANGE = re.compile(r"blocks\.(\d{1,3})-(\d{1,3})")  # a longer number is that of no stage
_BATCH_NORMS = (BatchNormAct2d, SyncBatchNormAct, nn.BatchNorm2d, nn.SyncBatchNorm)
_Self = TypeVar("_Self", bound="Freezable")


@register_notrace_module
class FrozenBatchNorm(FrozenBatchNormAct2d):
    """BatchNorm whose statistics, weight and bias are constants: what looks for BatchNorms or parameters passes it by.

    It is timm's, and thawed by timm's `unfreeze_batch_norm_2d`, but one operation instead of two, whose result has the
    dtype of its input under autocast too.

    Shapes: (B, C, H, W), unchanged.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    @classmethod
    def of(cls, norm: Any) -> "FrozenBatchNorm":
        """Return the frozen twin of a BatchNorm, with its activation if it has one."""
        mean = norm.running_mean
        frozen = cls(norm.num_features, norm.eps, apply_act=False, device=mean.device, dtype=mean.dtype)
        frozen.load_state_dict(norm.state_dict(), strict=False)  # a norm without weight and bias has 1 and 0
        frozen.num_features, frozen.affine = norm.num_features, norm.affine  # which timm's function looks at
        frozen.drop, frozen.act = getattr(norm, "drop", frozen.drop), getattr(norm, "act", frozen.act)
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.act(self.drop(x))


class Freezable(nn.Module):
    """A model of which some parts stay in evaluation mode whatever mode it is put in, and have no gradients.

    Their BatchNorms become `FrozenBatchNorm`, since evaluation mode alone does not hold: weight averaging, for one,
    resets the statistics of every BatchNorm that it finds. Norms of other kinds stay as they are.

    Autograd keeps nothing of a part whose input needs no gradient: a frozen beginning costs no activation memory.
    TorchScript does not keep the mode, which stochastic depth and dropout follow: call `eval()` on the frozen parts of
    a scripted model after each `train()`.
    """

    # Names, not modules: what replaces one is frozen too. TorchScript reads annotations, and has no type for this one.
    frozen = ()  # type: tuple[str, ...]

    def train(self: _Self, mode: bool = True) -> _Self:
        """Set everything that is not frozen to training, or to evaluation with `mode=False`."""
        super().train(mode)
        for name, module in self.named_modules():
            if name in self.frozen:
                module.eval()
        return self

    def freeze(self, parts: str, linear_probe: bool = False) -> None:
        """Freeze `parts`, e.g. "stem,blocks.0-3"; with `linear_probe` all but the classifier.

        To thaw all: `timm.layers.unfreeze_batch_norm_2d(model).requires_grad_()`, then `model.freeze("")`. The
        BatchNorms come back with PyTorch's momentum of 0.1, and an optimizer made before does not know their weights.

        Raises:
            ValueError: A part does not exist, or nothing is left to train.

        >>> import timm, timm_effnet_ext
        >>> model = timm.create_model("hucorz_efficientnet_lite0", width_mult=0.25, depth_mult=0.25)
        >>> model.freeze("stem,blocks.0-5")
        >>> sorted({name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad})
        ['blocks', 'bn2', 'classifier', 'conv_head']
        """
        existing = _parts(self)
        names = list(existing) if linear_probe else _split(parts, existing)
        self.frozen = tuple(module for name in names for module in existing[name])
        for name in self.frozen:
            part = self.get_submodule(name).requires_grad_(False)
            for path, norm in list(part.named_modules(prefix=name)):
                if type(norm) in _BATCH_NORMS and norm.track_running_stats and not is_intercepted(norm):
                    self.set_submodule(path, FrozenBatchNorm.of(norm))
        if names and not any(p.requires_grad for p in self.parameters()):
            raise ValueError(f"nothing is left to train: {','.join(names)} are frozen and there is no classifier")
        self.train(self.training)


def _parts(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return what can be frozen, in the order of the computation: part -> names of its modules."""
    blocks = (f"blocks.{i}" for i, _ in enumerate(model.get_submodule("blocks").children()))
    parts = {"stem": ("conv_stem", "bn1"), **{name: (name,) for name in blocks}, "head": ("conv_head", "bn2")}
    return {name: modules for name, modules in parts.items() if name != "head" or hasattr(model, "conv_head")}


def _split(text: str, existing: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the parts that `text` lists, with ranges of blocks written out."""
    names: list[str] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        span = _RANGE.fullmatch(word)
        part = [f"blocks.{i}" for i in range(int(span[1]), int(span[2]) + 1)] if span else [word]
        if not part or not existing.keys() >= set(part):
            near = difflib.get_close_matches(word, existing, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"freeze: no part {word!r} in {', '.join(existing)}{hint}")
        names += part
    return names
