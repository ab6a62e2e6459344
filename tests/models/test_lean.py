"""Lean training changes what is kept for backward, and nothing else: gradients, statistics, outputs, random numbers."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.multiprocessing as mp
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import timm_effnet_ext  # noqa: F401  registers the models
from benchmarks.measure import kept_bytes
from tests.closeness import FLOAT32, FLOAT64, assert_close, assert_each_close
from tests.small_models import SMALL, DoublingRow
from timm_effnet_ext.arch.rows import ARCHS, PREFIX
from timm_effnet_ext.models.layers import CondConv2d

ROUTED_OR_NOT = ("efficientnet_b0", "efficientnet_cc_b0_4e")
STOCHASTIC = dict(drop_rate=0.2, drop_path_rate=0.3)


def pair(name: str = "efficientnetv2_s", dtype: torch.dtype = torch.float64, **kwargs: Any) -> tuple[Any, Any]:
    """Return a model in training mode and its lean twin with the same weights."""
    torch.manual_seed(0)
    model: Any = timm.create_model(PREFIX + name, **{**SMALL, "num_classes": 5, **kwargs}).to(dtype).train()
    lean = copy.deepcopy(model)
    lean.set_lean_training()
    return model, lean


def images(size: tuple[int, int] = (33, 32), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(4, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def objective(output: Any) -> Tensor:
    """Return a number that depends on every element of every output in its own way."""
    maps = output if isinstance(output, list) else [output]
    return sum((m.square() * torch.linspace(0, 1, m.numel()).view(m.shape)).sum() for m in maps)


def run(model: nn.Module, x: Tensor) -> Any:
    """Run forward and backward from the same random state; return the output."""
    torch.manual_seed(2)
    output = model(x)
    objective(output).backward()
    return output


def assert_same_grads(model: nn.Module, lean: nn.Module) -> None:
    found, expected = ({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (lean, model))
    assert_each_close(found, expected, FLOAT64)


def assert_same_buffers(model: nn.Module, lean: nn.Module) -> None:
    for (name, a), b in zip(model.named_buffers(), lean.buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", ARCHS)
def test_every_arch_trains_the_same(name: str) -> None:
    model, lean = pair(name, **STOCHASTIC, depth_mult=0.2)
    x = images()
    expected, output = run(model, x), run(lean, x)
    assert torch.equal(output, expected)
    assert_same_grads(model, lean)
    assert_same_buffers(model, lean)


def test_random_numbers_are_drawn_as_without_it() -> None:
    model, lean = pair("efficientnet_b0", **STOCHASTIC)
    run(model, images())
    state = torch.get_rng_state()
    run(lean, images())
    assert torch.equal(torch.get_rng_state(), state)


def test_hooks_of_parameters_run_once() -> None:
    counts = []
    models = pair("efficientnet_b0")
    for model in models:
        seen: Counter[str] = Counter()
        for name, p in model.named_parameters():
            p.register_hook(lambda grad, seen=seen, name=name: (seen.update([name]), grad * 0.5)[1])
            p.register_post_accumulate_grad_hook(lambda p, seen=seen, name=name: seen.update([f"{name} after"]))
        run(model, images())
        counts.append(seen)
    assert counts[1] == counts[0]
    assert set(counts[1].values()) == {1}
    assert_same_grads(*models)


@pytest.mark.parametrize("mode", ["all", "any"])
def test_hooks_of_many_parameters_run_once(mode: Any) -> None:
    _, lean = pair("efficientnet_b0")
    called: list[int] = []
    register_multi_grad_hook(list(lean.parameters()), lambda grads: called.append(1), mode=mode)
    run(lean, images())
    assert called == [1]


def test_flops_are_counted_as_without_it() -> None:
    counts = []
    for model in pair("efficientnet_b0"):
        with FlopCounterMode(display=False) as counter:
            run(model, images())
        counts.append(counter.get_flop_counts()["Global"])
    assert counts[1] == counts[0]  # what backward recomputes has no convolutions


def test_modules_can_be_tracked() -> None:
    model, lean = pair("efficientnet_b0")
    run(model, images())
    with ModuleTracker():
        run(lean, images())
    assert_same_grads(model, lean)


def test_an_attention_of_other_layers_trains_the_same() -> None:
    model, lean = pair("efficientnet_b0")
    for m in (model, lean):
        conv = m.blocks[1][0].se.conv_reduce
        torch.manual_seed(3)
        m.blocks[1][0].se.conv_reduce = nn.Sequential(conv, nn.Conv2d(conv.out_channels, conv.out_channels, 1)).double()
        m.blocks[2][0].se.conv_expand.stride = (2, 2)
        m.blocks[3][0].se.gate = nn.Hardsigmoid()
        m.blocks[4][0].se.act1 = nn.PReLU().double()
    assert torch.equal(run(lean, images()), run(model, images()))
    assert_same_grads(model, lean)


@pytest.mark.parametrize("size", [(32, 32), (33, 33), (40, 35)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_size_and_memory_format(size: tuple[int, int], memory_format: torch.memory_format) -> None:
    model, lean = pair("efficientnet_b0")
    model, lean = model.to(memory_format=memory_format), lean.to(memory_format=memory_format)
    x = images(size).to(memory_format=memory_format)
    run(model, x), run(lean, x)
    assert_same_grads(model, lean)


def test_the_gradient_of_the_image() -> None:
    model, lean = pair()
    x, y = images().requires_grad_(), images().requires_grad_()
    run(model, x), run(lean, y)
    assert_close(y.grad, x.grad, FLOAT64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    model, lean = pair(name, torch.float32)
    exact = copy.deepcopy(model)
    x = images(dtype=torch.float32)
    run(exact, x)
    with torch.autocast("cpu", dtype=dtype):
        expected, output = run(model, x), run(lean, x)
    assert output.dtype == dtype
    assert torch.equal(output, expected)
    assert_same_buffers(model, lean)
    assert all(p.grad.dtype == torch.float32 for p in lean.parameters())
    assert grad_distance(lean, exact) <= 1.1 * grad_distance(model, exact)  # as near to float32 as without it


def grad_distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(torch.cat([(p.grad - q.grad).flatten() for p, q in pairs]).norm())


@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_bfloat16_parameters(name: str) -> None:
    model, lean = pair(name, torch.bfloat16)
    x = images(dtype=torch.bfloat16)
    assert torch.equal(run(lean, x), run(model, x))
    assert all(p.grad.dtype == torch.bfloat16 for p in lean.parameters())


@pytest.mark.parametrize("act", ["silu", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "mish",
                                 "hard_swish", "hard_sigmoid", "hard_mish", "tanh", "sigmoid", "prelu",
                                 "quick_gelu"])  # fmt: skip
def test_every_activation(act: str) -> None:
    model, lean = pair("efficientnet_b0", act_layer=act)
    x = images()
    assert torch.equal(run(lean, x), run(model, x))
    assert_same_grads(model, lean)


@pytest.mark.parametrize("norm", ["batchnorm2d", "groupnorm1", "layernorm2d", "frn"])
def test_every_norm(norm: str) -> None:
    model, lean = pair("efficientnet_b0", norm_layer=norm)
    x = images()
    assert torch.equal(run(lean, x), run(model, x))
    assert_same_grads(model, lean)
    assert_same_buffers(model, lean)


@pytest.mark.parametrize("se", ["se", "ese", "eca", "cbam"])
def test_every_attention(se: str) -> None:
    model, lean = pair("efficientnet_b0", se_layer=se)
    x = images((64, 64))
    assert torch.equal(run(lean, x), run(model, x))
    assert_same_grads(model, lean)
    assert_same_buffers(model, lean)


def test_unknown_layers_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        timm.create_model("hucorz_efficientnet_b0", **SMALL, lean=True, act_layer="prelu", se_layer="eca")
    assert [r.getMessage() for r in caplog.records if "lean" in r.getMessage()] == [
        "lean training: EcaModule, PReLU keep their activations, as without it"
    ]


@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_known_layers_say_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        timm.create_model(PREFIX + name, **SMALL, lean=True)
    assert not caplog.records


def test_other_layers_of_ones_own_are_called() -> None:
    model, lean = pair("efficientnet_b0")
    for m in (model, lean):
        m.blocks[1][0].conv_pw = nn.Sequential(m.blocks[1][0].conv_pw)
        m.blocks[2] = nn.Sequential(*m.blocks[2], nn.Tanh())
    x = images()
    assert torch.equal(run(lean, x), run(model, x))
    assert_same_grads(model, lean)


class Scaled(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        return input * 0.5


@pytest.mark.parametrize("name", ["se", "drop_path", "bn1.act", "bn1.drop"])
@pytest.mark.parametrize("layer", [Scaled(), nn.Dropout(0.3)], ids=["Identity", "Dropout"])
def test_layers_that_only_look_known_are_called(name: str, layer: nn.Module) -> None:
    model, lean = pair("efficientnet_b0", depth_mult=0.6)
    for m in (model, lean):
        m.blocks[4][1].set_submodule(name, copy.deepcopy(layer))
    assert torch.equal(run(lean, images()), run(model, images()))
    assert_same_grads(model, lean)


def test_a_row_of_another_class_is_called() -> None:
    model, lean = pair()
    for m in (model, lean):
        m.blocks = DoublingRow(*m.blocks)
    assert torch.equal(run(lean, images()), run(model, images()))
    assert_same_grads(model, lean)


@pytest.mark.parametrize("path", ["conv_stem", "bn1", "blocks", "blocks.2", "blocks.1.0", "blocks.1.0.conv_dw",
                                  "blocks.1.0.bn2", "blocks.1.0.bn2.act", "blocks.1.0.bn2.drop", "blocks.1.0.se",
                                  "blocks.1.0.se.gate", "blocks.4.1.drop_path", "blocks.4.0.conv_pw",
                                  "blocks.4.0.conv_dw", "blocks.4.1", "conv_head"])  # fmt: skip
@pytest.mark.parametrize("name", [*ROUTED_OR_NOT, "efficientnet_lite0"])
def test_hooks_see_what_they_see_without_it(path: str, name: str) -> None:
    models = pair(name, depth_mult=0.6, drop_path_rate=0.2)
    if name == "efficientnet_lite0" and path.endswith("gate"):
        pytest.skip("Lite has no gate")
    seen: list[Tensor] = []
    for model in models:
        model.get_submodule(path).register_forward_hook(lambda _, inputs, output: seen.append(output.detach().clone()))
        run(model, images())
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_a_forward_of_ones_own_is_called() -> None:
    _, lean = pair("efficientnet_b0")
    block, called = lean.blocks[1][0], []
    forward = block.forward
    block.forward = lambda x: (called.append(1), forward(x))[1]
    run(lean, images())
    assert called == [1]


def test_one_value_a_channel_has_no_variance() -> None:
    for model in pair("efficientnet_b0", dtype=torch.float32):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            model(torch.randn(1, 3, 32, 32))
        assert all(buffer.isfinite().all() for buffer in model.buffers())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_an_empty_batch(name: str, training: bool) -> None:
    _, lean = pair(name)
    output = lean.train(training)(images()[:0])
    output.sum().backward()
    assert output.shape == (0, 5)
    assert all(buffer.isfinite().all() for buffer in lean.buffers())


def test_replicas_of_data_parallel_train_all_parameters() -> None:
    # nn.DataParallel needs two GPUs; this is what torch/nn/parallel/replicate.py makes of a module.
    _, lean = pair("efficientnet_b0")
    copies = {module: module._replicate_for_data_parallel() for module in lean.modules()}
    for module, replica in copies.items():
        for name, child in module._modules.items():
            setattr(replica, name, copies[child])
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter * 1)
    objective(copies[lean](images())).backward()
    assert all(p.grad is not None for p in lean.parameters())


@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_gradients_in_batches(name: str) -> None:
    found = []
    for model in pair(name):
        x = images().requires_grad_()
        output = model(x)[0]
        (grads,) = torch.autograd.grad(output, x, torch.eye(len(output), dtype=x.dtype), is_grads_batched=True)
        found.append(grads)
    assert_close(found[1], found[0], FLOAT64)


@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_transforms_of_torch_func(name: str) -> None:
    model, lean = pair(name)
    found = [torch.func.grad(lambda x, m=m: m(x).square().sum())(images()) for m in (model.eval(), lean.eval())]
    assert torch.equal(*found)


def freeze_half(model: Any) -> None:
    for module in (model.conv_stem, model.bn1, *model.blocks[:3]):
        module.requires_grad_(False)


def freeze_statistics(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def freeze_norms(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)


def freeze_convolutions(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, CondConv2d)):
            module.requires_grad_(False)


def freeze_stages(model: Any) -> None:
    model.freeze("blocks.1-2,blocks.5")


@pytest.mark.parametrize(
    "freeze", [freeze_half, freeze_statistics, freeze_batch_norm_2d, freeze_norms, freeze_convolutions, freeze_stages]
)
@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_frozen_parts(name: str, freeze: Callable[[Any], None]) -> None:
    model, lean = pair(name)
    freeze(model), freeze(lean)
    x = images()
    expected, output = run(model, x), run(lean, x)
    assert_close(output, expected, FLOAT64)
    assert_same_grads(model, lean)
    assert_same_buffers(model, lean)


@pytest.mark.parametrize("freeze", [freeze_batch_norm_2d, lambda model: model.freeze("blocks.1-5")])
def test_frozen_norms_are_known(freeze: Callable[[Any], Any]) -> None:
    _, lean = pair("efficientnet_b0", torch.float32)
    frozen, x = copy.deepcopy(lean), images(dtype=torch.float32)
    freeze(frozen)
    assert kept_bytes(frozen, lambda: frozen(x)) <= kept_bytes(lean, lambda: lean(x))


@pytest.mark.parametrize("freeze", [freeze_batch_norm_2d, freeze_stages])
def test_frozen_norms_under_autocast(freeze: Callable[[Any], Any]) -> None:
    model, lean = pair("efficientnet_b0", torch.float32, features_only=True, num_classes=None)
    freeze(model), freeze(lean)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for expected, found in zip(run(model, images().float()), run(lean, images().float()), strict=True):
            assert torch.equal(found, expected)
            assert found.dtype == expected.dtype


def test_gradients_accumulate() -> None:
    model, lean = pair()
    for x in (images(), images((48, 48))):
        run(model, x), run(lean, x)
    assert_same_grads(model, lean)


def test_backward_may_run_twice() -> None:
    model, lean = pair("efficientnet_b0")
    x = images()
    for m in (model, lean):
        loss = objective(m(x))
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same_grads(model, lean)


def test_mode_may_change_before_backward() -> None:
    model, lean = pair("efficientnet_b0")
    for m in (model, lean):
        loss = objective(m(images()))
        m.eval()
        loss.backward()
    assert_same_grads(model, lean)


def test_gradient_checkpointing_goes_before() -> None:
    model, lean = pair("efficientnet_b0")
    model.set_grad_checkpointing(), lean.set_grad_checkpointing()
    x = images()
    assert torch.equal(run(lean, x), run(model, x))
    assert_same_grads(model, lean)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", ROUTED_OR_NOT)
def test_under_a_checkpoint_of_ones_own_the_forward_pass_runs_twice(name: str, use_reentrant: bool) -> None:
    model, lean = pair(name)
    for m in (model, lean):
        torch.manual_seed(2)
        x = images().requires_grad_()
        objective(torch.utils.checkpoint.checkpoint(m, x, use_reentrant=use_reentrant)).backward()
    assert_same_grads(model, lean)
    assert_same_buffers(model, lean)


def test_hooks_of_saved_tensors_may_be_forbidden() -> None:
    model, lean = pair("efficientnet_b0")
    x = images()
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        assert torch.equal(run(lean, x), run(model, x))
    assert_same_grads(model, lean)


def test_weights_that_change_before_backward_are_told_as_without_it() -> None:
    for model in pair("efficientnet_b0"):
        for weight in (model.conv_head.weight, model.bn1.weight, model.blocks[1][0].se.conv_reduce.weight):
            loss = objective(model(images()))
            with torch.no_grad():
                weight.mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()


@pytest.mark.parametrize("kwargs", [{}, {"out_indices": (1, 3)}, {"feature_location": "expansion"}])
def test_features_only(kwargs: dict[str, Any]) -> None:
    model, lean = pair("efficientnet_b0", num_classes=None, features_only=True, **kwargs)
    x = images()
    for expected, found in zip(run(model, x), run(lean, x), strict=True):
        assert torch.equal(expected, found)
    assert_same_grads(model, lean)
    assert_same_buffers(model, lean)


def test_pruned_model() -> None:
    model, lean = pair("efficientnet_b0")
    model.prune_intermediate_layers(2), lean.prune_intermediate_layers(2)
    x = images()
    assert torch.equal(run(lean, x), run(model, x))
    assert_same_grads(model, lean)


def test_without_gradients_it_is_not_used() -> None:
    model, lean = pair()
    with torch.no_grad():
        assert torch.equal(lean(images()), model(images()))
    assert_same_buffers(model, lean)


def test_compile_sees_the_plain_model() -> None:
    _, lean = pair("efficientnet_b0", torch.float32, depth_mult=0.1)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compile(lean, backend=backend)(images(dtype=torch.float32))
    assert len(graphs) == 1
    assert not any("autograd" in str(node.target) for node in graphs[0].graph.nodes)


def test_script_and_trace_of_a_lean_model() -> None:
    _, lean = pair("efficientnet_b0", torch.float32)
    lean.eval()
    x = images(dtype=torch.float32)
    for recorded in (torch.jit.script(lean), torch.jit.trace(lean, x)):
        assert_close(recorded(x), lean(x), FLOAT32)


# Small stand-ins for B0, V2-S and B4: the bars of full size hold with room, `bench` counts those.
@pytest.mark.parametrize(
    ("name", "bar"), [("efficientnet_b0", 0.33), ("efficientnetv2_s", 0.36), ("efficientnet_b4", 0.34)]
)
def test_kept_bytes(name: str, bar: float) -> None:
    twin = timm.create_model(f"tf_{name}").train()
    lean = timm.create_model(PREFIX + name, lean=True).train()
    x = torch.randn(1, 3, 96, 96).expand(2, -1, -1, -1).contiguous()
    assert kept_bytes(lean, lambda: lean(x)) <= bar * kept_bytes(twin, lambda: twin(x))


def test_two_processes(tmp_path: Path) -> None:
    mp.spawn(_train, (str(tmp_path),), nprocs=2)
    plain, lean = (torch.load(tmp_path / f"{lean}.pt", weights_only=True) for lean in (False, True))
    assert_each_close(lean, plain, FLOAT64)


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for model in pair("efficientnet_b0", depth_mult=0.1):
        run(DistributedDataParallel(model), images() + rank)
        if rank == 0:
            torch.save({n: p.grad for n, p in model.named_parameters()}, f"{folder}/{model.lean_training}.pt")
    torch.distributed.destroy_process_group()
