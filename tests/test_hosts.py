"""What torch, timm and the Hub's client do not promise is still so; where it is not, the message says where to look."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import hf_hub_download
from timm.data import create_loader
from timm.models import load_checkpoint, load_state_dict
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from tests.closeness import FLOAT32, assert_close
from tests.faulty_server import Fault
from tests.hub_server import LocalHub
from tests.small_models import SMALL, create
from tests.test_imports import FILES, name_of
from timm_effnet_ext import hosts
from timm_effnet_ext.files.storage import sha256

B0 = "hucorz_efficientnet_b0"
# Public all the same: of namedtuple, and of argparse and os for want of another name.
PUBLIC = {"_replace", "_asdict", "_fields", "_SubParsersAction", "_ActionsContainer", "_exit"}


@contextmanager
def needed(host: str, what: str, by: str) -> Iterator[None]:
    """Fail in plain words where the block does."""
    assert hasattr(hosts, by)
    try:
        yield
    except Exception as err:
        pytest.fail(f"{host} no longer has {what}: see hosts.{by} ({type(err).__name__}: {err})", pytrace=False)


def test_transforms_of_torch_func_are_seen() -> None:
    with needed("torch", "_are_functorch_transforms_active", "is_transformed"):
        seen: list[bool] = []
        torch.func.vmap(lambda x: (seen.append(hosts.is_transformed()), x)[1])(torch.ones(2))
        assert (hosts.is_transformed(), seen) == (False, [True])


def test_gradients_in_batches_are_seen() -> None:
    seen: list[bool] = []

    class Watching(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            seen.append(hosts.is_batched_gradient(gradient))
            return gradient

    with needed("torch", "is_legacy_batchedtensor", "is_batched_gradient"):
        x = torch.ones(2, requires_grad=True)
        torch.autograd.grad(Watching.apply(x), x, torch.ones(2))
        torch.autograd.grad(Watching.apply(x), x, torch.eye(2), is_grads_batched=True)
        assert seen == [False, True]


def test_what_watches_everything_is_seen() -> None:
    with needed("torch", "_global_forward_hooks or _len_torch_dispatch_stack", "is_observed"):
        assert not hosts.is_observed()
        hook = register_module_forward_hook(lambda *_: None)
        assert hosts.is_observed()
        hook.remove()
        with FlopCounterMode(display=False):
            assert hosts.is_observed()
        assert not hosts.is_observed()


def test_forbidden_hooks_of_saved_tensors_are_seen() -> None:
    with needed("torch", "_saved_tensors_hooks_is_enabled", "may_hook_saved_tensors"):
        assert hosts.may_hook_saved_tensors()
        with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
            assert not hosts.may_hook_saved_tensors()


def test_bfloat16_is_a_yes_or_a_no() -> None:
    with needed("torch", "_is_avx512_bf16_supported or _is_amx_tile_supported", "has_bfloat16"):
        assert hosts.has_bfloat16() in (True, False)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("flag", [True, False])
def test_onednn_can_be_switched_off(flag: bool) -> None:
    with needed("torch", "_get_mkldnn_enabled", "onednn_serves"), torch.backends.mkldnn.flags(enabled=flag):
        assert not hosts.onednn_serves(torch.float64)
        assert flag or not hosts.onednn_serves(torch.float32)


@pytest.mark.skipif(not hosts.onednn_serves(torch.float32), reason="this processor is left to torch")
def test_onednn_convolves_with_packed_weights() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1).requires_grad_(False)
    x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    other = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    with needed("torch", "mkldnn_reorder_conv2d_weight as it was", "pack_weight"):
        weight = hosts.pack_weight(conv.weight, conv.padding, conv.stride, conv.dilation, conv.groups, x.shape)
    with needed("torch", "mkldnn::_convolution_pointwise as it was", "convolve_packed"):
        found = hosts.convolve_packed(conv, x, weight, conv.padding, "hardtanh", [0.0, 6.0], None)
        assert_close(found, conv(x).clamp(0, 6), FLOAT32)
        assert_close(hosts.convolve_packed(conv, x, weight, conv.padding, "none", [], other), conv(x) + other, FLOAT32)


INTERCEPTIONS: dict[str, Callable[[nn.Module], Any]] = {
    "forward hook": lambda m: m.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda m: m.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
    "forward of its own": lambda m: setattr(m, "forward", lambda x: x),
    "compiled call": lambda m: m.compile(),
}


@pytest.mark.parametrize("kind", INTERCEPTIONS)
def test_whoever_intercepts_a_module_is_seen(kind: str) -> None:
    with needed("torch", f"the place where a module keeps its {kind}", "is_intercepted"):
        module = nn.Identity()
        assert not hosts.is_intercepted(module)
        INTERCEPTIONS[kind](module)
        assert hosts.is_intercepted(module)


@pytest.mark.parametrize("name", ["silu", "relu", "relu6", "hard_swish", "gelu", "mish"])
def test_activations_are_defined_where_they_were(name: str) -> None:
    with needed("torch or timm", f"{name} in one of these modules", "ACTIVATION_MODULES"):
        assert timm.layers.get_act_layer(name).__module__ in hosts.ACTIVATION_MODULES


def test_the_memory_budget_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with needed("torch", "activation_memory_budget", "set_memory_budget"):
        import torch._functorch.config as config

        monkeypatch.setattr(config, "activation_memory_budget", config.activation_memory_budget)
        hosts.set_memory_budget(0.5)
        assert config.activation_memory_budget == 0.5
        with pytest.raises(AttributeError):
            config.no_such_budget = 0.5  # so that a setting of another name is an error


def failure_to_load(path: Path) -> Any:
    """Return what timm raises over a file."""
    with pytest.raises(RuntimeError) as caught:
        load_state_dict(str(path))
    return caught.value


def test_a_damaged_archive_is_told_by_its_text(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.ones(100_000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with needed("torch", "these words for a cut archive", "is_damaged_archive"):
        assert hosts.is_damaged_archive(failure_to_load(path))
    assert not hosts.is_damaged_archive(RuntimeError("out of memory"))


def test_what_timm_refuses_is_told_by_its_text(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)
    with needed("timm", "these words for what it refuses", "refused_objects"):
        assert hosts.refused_objects(failure_to_load(path)) == ["torch.nn.modules.linear.Linear"]
    path.write_bytes(pickle.dumps({"weights": Path("x")}))
    with needed("timm", "these words for a pickle", "refused_objects"):
        assert hosts.refused_objects(failure_to_load(path)) == []
    assert hosts.refused_objects(RuntimeError("out of memory")) is None


def test_a_download_of_another_length_is_told_by_its_text(local_hub: LocalHub) -> None:
    local_hub.add("alice/small", {"model.safetensors": bytes(1000)})
    local_hub.faults.append(Fault("GET .*safetensors", body=b"short"))
    with needed("huggingface_hub", "these words for it", "is_download_of_another_length"):
        with pytest.raises(OSError, match="size") as caught:
            hf_hub_download("alice/small", "model.safetensors")
        assert hosts.is_download_of_another_length(caught.value)
    assert not hosts.is_download_of_another_length(OSError("disk full"))


def test_the_cache_names_large_files_after_their_sha256(local_hub: LocalHub, tmp_path: Path) -> None:
    local_hub.add("alice/small", {"model.safetensors": bytes(1000)})
    with needed("huggingface_hub", "such names in its cache", "announced_hash"):
        path = Path(hf_hub_download("alice/small", "model.safetensors"))
        assert hosts.announced_hash(path) == sha256(path)
    assert hosts.announced_hash(tmp_path / "model.safetensors") is None


def test_the_files_that_timm_loads_are_seen_on_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "timm_effnet_ext.weights.source.check_readable_checkpoint",
        lambda: seen.append(hosts.argument_of_timm("create_model", "checkpoint_path")),
    )
    monkeypatch.setattr(
        "timm_effnet_ext.models.trunk.check_state",
        lambda *_: seen.append(hosts.argument_of_timm("load_checkpoint", "checkpoint_path")),
    )
    path = str(tmp_path / "model.pth")
    model = create(B0, **SMALL)
    torch.save(model.state_dict(), path)
    load_checkpoint(model, path)
    with needed("timm", "checkpoint_path in create_model and load_checkpoint", "argument_of_timm"):
        create(B0, checkpoint_path=path, **SMALL)
        assert seen == [None, path, path, path]
    assert hosts.argument_of_timm("load_checkpoint", "checkpoint_path") is None


def test_the_loader_makes_transforms_and_samplers_by_these_names() -> None:
    with needed("timm", "these names in create_loader", "loader_module"):
        names = {"ScheduledBatchSampler", "create_transform"}
        assert names <= set(create_loader.__code__.co_names)
        assert names <= vars(hosts.loader_module()).keys()


def test_nobody_else_uses_what_is_private() -> None:
    trees = {file: list(ast.walk(ast.parse(file.read_text(encoding="utf-8")))) for file in FILES}
    nodes = [node for tree in trees.values() for node in tree]
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    ours |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    ours |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    foreign = [
        f"{name_of(file)}:{node.lineno} {node.attr}"
        for file, tree in trees.items()
        for node in tree
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if node.attr not in ours | PUBLIC and name_of(file) != "hosts"
    ]
    assert foreign == []
