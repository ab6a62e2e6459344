"""What this package uses of torch, timm and the Hub's client that they do not promise to keep: all of it stands here.

Each function says why no public door leads there. `tests/test_hosts.py` fails in plain words where a host has changed,
so that nothing that depended on it is left undone in silence. The hosts are imported by those functions that need
them, as this module is imported where there is no torch, too.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

ACTIVATION_MODULES = ("torch.nn.modules.activation", "timm.layers.activations")
"""Where torch and timm define their activations, which have no base class in common but `nn.Module`."""

_BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_REFUSED = re.compile(r"Unsupported globals: (.+?)\. ")


def is_transformed() -> bool:
    """Whether a transform of `torch.func`, such as vmap, is at work; torch tells this to nobody else."""
    import torch

    return torch._C._are_functorch_transforms_active()


def is_batched_gradient(gradient: Any) -> bool:
    """Whether a gradient is several at once, as with `is_grads_batched`; else it looks like any other tensor."""
    import torch

    return torch._C._functorch.is_legacy_batchedtensor(gradient)


def is_intercepted(module: Any) -> bool:
    """Whether calling a module is more than its class's forward: hooks, a forward of its own, a compiled one.

    torch has functions that add hooks, and none that tells whether there are any.
    """
    has_hooks = (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
    return bool(has_hooks) or has_own_forward(module) or module._compiled_call_impl is not None


def is_observed() -> bool:
    """Whether every module or operation is watched: by hooks of all modules, or by a mode such as a counter of FLOPs.

    torch has functions that add such hooks and modes, and none that tells whether there are any.
    """
    import torch
    from torch.nn.modules import module

    hooks = (module._global_forward_hooks, module._global_forward_pre_hooks)
    return any(hooks) or torch._C._len_torch_dispatch_stack() > 0


def may_hook_saved_tensors() -> bool:
    """Whether saved tensors may have hooks; torch has a context that forbids them, and nothing that tells it is on."""
    import torch

    autograd: Any = torch._C._autograd  # whose stub lacks this function
    return bool(autograd._saved_tensors_hooks_is_enabled())


def has_own_forward(module: Any) -> bool:
    """Whether a module has a forward of its own in place of its class's."""
    return "forward" in vars(module)


def onednn_serves(dtype: Any) -> bool:
    """Whether oneDNN's fused convolutions serve this processor, one with AVX, in float32 or bfloat16.

    Whether it is switched off is asked privately, as torch's public flag can be set and not read.
    """
    import torch

    is_there = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    if not is_there or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_bfloat16() -> bool:
    """Whether the processor has instructions that multiply in bfloat16; in public torch only says what it emulates."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def pack_weight(weight: Any, padding: Any, stride: Any, dilation: Any, groups: int, shape: Any) -> Any:
    """Return the weight of a convolution in oneDNN's order for images of that shape.

    torch's own compiler packs weights so. The public `torch.utils.mkldnn` converts whole modules, whose feature maps
    are then in oneDNN's order too, which no other operation reads.
    """
    import torch

    pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # torch's stub lacks its last argument
    return pack(weight.detach().to_mkldnn(), padding, stride, dilation, groups, shape)


def convolve_packed(
    conv: Any, x: Any, weight: Any, padding: Any, act: str, numbers: list[float], other: Any | None
) -> Any:
    """Return what `conv` makes of `x` with a packed weight, and the activation of it; or with `other` added to it.

    torch's own compiler calls the same operations; `torch.nn.functional` has a convolution alone.
    """
    import torch

    convolve = torch.ops.mkldnn._convolution_pointwise
    given = (weight, conv.bias, padding, conv.stride, conv.dilation, conv.groups)
    if other is None:
        return convolve.default(x, *given, act, numbers, "")
    return convolve.binary(x, other, *given, "add", None, None, [], None)


def set_memory_budget(budget: float) -> None:
    """Set which share of the activations `torch.compile` may keep for backward.

    torch documents the setting at this place, and takes no argument instead.
    """
    import torch._functorch.config as config

    config.activation_memory_budget = budget


def is_damaged_archive(err: RuntimeError) -> bool:
    """Whether `torch.load` failed of a file that is cut or damaged: its C++ part has no kinds of errors, only texts."""
    return "PytorchStreamReader" in str(err) or "Invalid magic number" in str(err)


def refused_objects(err: RuntimeError) -> list[str] | None:
    """Return which objects timm did not load of a pickle, perhaps none by name; None for an error of another kind.

    timm turns torch's error of a kind into a text.
    """
    if "weights_only" not in str(err):
        return None
    named = _REFUSED.search(str(err))
    return named[1].split(", ") if named else []


def is_download_of_another_length(err: OSError) -> bool:
    """Whether the Hub's client got fewer or more bytes than the Hub announced: it raises a bare OSError over that."""
    return "Consistency check failed" in str(err)


def announced_hash(cached: Path) -> str | None:
    """Return the hash that the Hub announced of a file in its client's cache, None where that is not known.

    It is a sha256 or a sha1. The client names the file after it, and keeps it nowhere else; the Hub may be gone.
    """
    blob = cached.resolve().name
    return blob if _BLOB.fullmatch(blob) else None


def argument_of_timm(function: str, name: str) -> Any:
    """Return an argument of timm's `function` that is calling us, or None where it is not.

    `create_model` keeps its `checkpoint_path` to itself, and `load_checkpoint` gives a model the tensors of a file
    without its name: only the stack knows which file that is, hence what errors call it and which config is beside it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__", "").startswith("timm."):
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None


def loader_module() -> ModuleType:
    """Return where timm's `create_loader` finds the `ScheduledBatchSampler` and `create_transform` that it calls.

    It takes neither as an argument, and its own schedule mixes sizes within a stage.
    """
    from timm.data import create_loader

    return inspect.getmodule(create_loader)  # type: ignore[return-value]
