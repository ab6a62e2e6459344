"""What oneDNN's fused convolutions compute is what the folded model computes, whatever is done to it in between."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode

from tests.closeness import FLOAT32, assert_close
from tests.models.test_fold import trained
from tests.small_models import SMALL, DoublingRow, images
from timm_effnet_ext import optimize_for_inference
from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.hosts import onednn_serves, pack_weight
from timm_effnet_ext.models import packed

# bfloat16 keeps 8 bits: each of some dozen roundings in a row is up to 0.4 % off, together 5 % here.
SAME_IN_BFLOAT16 = 0.15

pytestmark = pytest.mark.skipif(not onednn_serves(torch.float32), reason="this processor is left to torch")


def is_packed(model: Any, x: Tensor) -> bool:
    with torch.inference_mode():
        return model.packing.applies(model, x)  # type: ignore[no-any-return]


def unpacked(model: Any) -> Any:
    """Return what torch computes of the same folded weights."""
    plain = copy.deepcopy(model)
    plain.packing = None
    return plain


def assert_packed_is_right(model: Any, x: Tensor, within: float = FLOAT32) -> None:
    assert is_packed(model, x)
    with torch.inference_mode():
        expected = unpacked(model)(x)
        for _ in range(3):  # the second call with images of one size packs
            assert_close(model(x), expected, within)


def steps_of(model: Any) -> list[int]:
    return [len(chain.steps) for chain in model.packing._chains.values()]


@pytest.mark.parametrize("size", [(64, 64), (65, 47)], ids=["even", "odd"])
@pytest.mark.parametrize("name", ARCHS)
def test_every_arch_at_even_and_odd_sizes(name: str, size: tuple[int, int]) -> None:
    model = optimize_for_inference(trained(name))
    assert_packed_is_right(model, images(*size))
    is_cond = "_cc_" in name  # whose routed blocks are called as they are
    assert all(steps_of(model)) != is_cond


@pytest.mark.parametrize("kwargs", [{"output_stride": 8}, {"pad_type": ""}, {"in_chans": 1}, {"se_layer": "eca"}])
def test_other_layers(kwargs: dict[str, Any]) -> None:
    model = optimize_for_inference(trained(**kwargs))
    assert_packed_is_right(model, images(64, 47, chans=kwargs.get("in_chans", 3)))


@pytest.mark.parametrize("act", ["relu", "relu6", "gelu", "hard_swish", "mish", "leaky_relu"])
def test_other_activations(act: str) -> None:
    assert_packed_is_right(optimize_for_inference(trained("efficientnetv2_s", act_layer=act)), images(64, 47))


@pytest.mark.parametrize("kwargs", [{}, {"out_indices": (1, 3)}, {"feature_location": "expansion"}])
def test_features_only(kwargs: dict[str, Any]) -> None:
    model = optimize_for_inference(trained(num_classes=None, features_only=True, **kwargs))
    x = images(64, 47)
    assert is_packed(model, x)
    with torch.inference_mode():
        for _ in range(2):
            for found, expected in zip(model(x), unpacked(model)(x), strict=True):
                assert_close(found, expected, FLOAT32)


def test_weights_are_packed_for_a_size_that_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[Any] = []
    monkeypatch.setattr(packed, "pack_weight", lambda *args: shapes.append(args[-1]) or pack_weight(*args))
    model = optimize_for_inference(trained())
    with torch.inference_mode():
        for batch, *size in ((1, 64, 64), (5, 40, 96), (1, 40, 97), (3, 64, 64)):
            assert_close(model(x := images(*size, batch=batch)), unpacked(model)(x), FLOAT32)
            assert shapes == []
        for batch in (3, 1, 2):
            assert_close(model(x := images(64, 64, batch=batch)), unpacked(model)(x), FLOAT32)
    convs = sum(len(chain.steps) for chain in model.packing._chains.values())
    assert len(shapes) == convs  # once each, whatever the batch


def change_in_place(model: Any) -> None:
    model.blocks[1][0].conv_pw.weight.mul_(1.5)


def load(model: Any) -> None:
    model.load_state_dict({name: value * 0.9 for name, value in model.state_dict().items()})


def assign(model: Any) -> None:
    model.load_state_dict({name: value * 0.9 for name, value in model.state_dict().items()}, assign=True)


def replace(model: Any) -> None:
    conv = model.blocks[1][0].conv_pw
    model.blocks[1][0].conv_pw = nn.Conv2d(conv.in_channels, conv.out_channels, 1)


def replace_within_attention(model: Any) -> None:
    se = model.blocks[1][0].se
    se.conv_reduce = nn.Conv2d(se.conv_reduce.in_channels, se.conv_reduce.out_channels, 3, padding=1)


def replace_attention(model: Any) -> None:
    model.blocks[1][0].se = nn.Identity()


def with_own_forward(model: Any) -> None:
    conv = model.blocks[1][0].conv_pw
    conv.forward = lambda x: nn.Conv2d.forward(conv, x) + 1


def drop_at_random_but_never(model: Any) -> None:
    model.blocks[1][0].drop_path = timm.layers.DropPath(0.0).train()


def replace_around_blocks(model: Any) -> None:
    model.bn1, model.bn2 = nn.ReLU(), nn.Tanh()


def parametrize(model: Any) -> None:
    weight_norm(model.blocks[1][0].conv_pw).parametrizations.weight.original0.mul_(1.5)


def wrap_around(model: Any) -> None:
    model.blocks[1][0].conv_pw.padding_mode = model.blocks[0][0].conv_dw.padding_mode = "circular"


def of_another_class(model: Any) -> None:
    model.blocks[1][0].bn1.__class__ = nn.Tanh


CHANGES: list[Callable[[Any], None]] = [
    change_in_place, load, assign, replace, replace_within_attention, replace_attention, with_own_forward,
    drop_at_random_but_never, replace_around_blocks, parametrize, wrap_around, of_another_class,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_after_a_call_is_seen(change: Callable[[Any], None]) -> None:
    model: Any = optimize_for_inference(trained())
    x = images(64, 47)
    with torch.no_grad():
        before = [model(x) for _ in range(2)][-1]
        change(model)
        assert_packed_is_right(model, x)
        assert change is drop_at_random_but_never or not torch.equal(model(x), before)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_where_torch_does_not_count_it_is_seen(change: Callable[[Any], None]) -> None:
    model: Any = optimize_for_inference(trained())
    x = images(64, 47)
    with torch.inference_mode():
        for _ in range(2):
            model(x)
        change(model)
    assert_packed_is_right(model, x)


def test_a_row_of_another_class_is_called() -> None:
    model: Any = optimize_for_inference(trained())
    model.blocks = DoublingRow(*model.blocks)
    x = images(64, 47)
    with torch.inference_mode():
        assert_close(model(x), unpacked(model)(x), FLOAT32)


def test_the_bounds_of_an_activation_are_seen() -> None:
    model: Any = optimize_for_inference(trained("efficientnet_lite0"))
    x = images(64, 47)
    with torch.inference_mode():
        before = model(x)
        model.bn1.max_val = 0.5
        assert_packed_is_right(model, x)
        assert not torch.equal(model(x), before)


def test_weights_at_an_address_that_had_others_are_seen() -> None:
    model: Any = optimize_for_inference(trained())
    x, weight = images(64, 47), model.blocks[1][0].conv_pw.weight
    values = weight.detach().clone()
    for factor in range(1, 5):
        weight.data = torch.empty(0)  # which frees the memory that the next takes
        weight.data = factor * values
        assert_packed_is_right(model, x)


def test_a_copy_made_without_gradients_is_packed() -> None:
    with torch.inference_mode():
        model = optimize_for_inference(trained())
    assert_packed_is_right(model, images(64, 47))
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_hooks_see_what_they_would_see_and_leave_no_trace() -> None:
    model: Any = optimize_for_inference(trained())
    x, seen = images(64, 47), []
    with torch.inference_mode():
        for watched in (model, unpacked(model)):
            watched(x)
            hook = watched.blocks[1][0].conv_dw.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
            watched(x)
            hook.remove()
            watched(x)
    assert len(seen) == 2
    for found, expected in zip(*seen, strict=True):
        assert_close(found, expected, FLOAT32)
    assert all(steps_of(model))


def test_hooks_of_all_modules_are_called() -> None:
    model, called = optimize_for_inference(trained()), []
    hook = register_module_forward_hook(lambda module, *_: called.append(module))
    try:
        with torch.inference_mode():
            model(images(64))
    finally:
        hook.remove()
    assert set(model.modules()) >= set(called) >= {m for m in model.modules() if isinstance(m, nn.Conv2d)}


def test_flops_are_counted() -> None:
    counts = []
    for model in (optimize_for_inference(trained()), trained()):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(images(64))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_gradients_of_the_image_are_torchs() -> None:
    model = optimize_for_inference(trained())
    x = images(64).requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not steps_of(model)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same_and_begin_without_packed_weights(copied: Callable[[Any], Any]) -> None:
    model: Any = optimize_for_inference(trained())
    x = images(64, 47)
    with torch.inference_mode():
        expected = model(x)
        again = copied(model)
        assert not steps_of(again)
        assert_close(again(x), expected, FLOAT32)


def test_what_is_no_plain_inference_is_left_to_torch() -> None:
    model: Any = optimize_for_inference(trained())
    x = images(64)
    assert is_packed(model, x)
    assert not model.packing.applies(model, x)  # gradients are on
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_packed(model, x)
    for image in (x.double(), x[:0], x.to("meta")):
        assert not is_packed(model, image)
    assert not is_packed(model.double(), x)
    assert not is_packed(model.float().train(), x)


@pytest.mark.skipif(not onednn_serves(torch.bfloat16), reason="this processor is left to torch")
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_s", "efficientnet_lite0"])
def test_in_bfloat16(name: str) -> None:
    model = optimize_for_inference(trained(name), dtype=torch.bfloat16)
    x = images(64, 47)
    assert_packed_is_right(model, x.to(torch.bfloat16), SAME_IN_BFLOAT16)
    with torch.inference_mode():
        found = model(x.to(torch.bfloat16))
        assert found.dtype == torch.bfloat16
        assert_close(found, optimize_for_inference(trained(name))(x), SAME_IN_BFLOAT16)


@pytest.mark.parametrize("is_native", [True, False])
def test_bfloat16_without_instructions_for_it_is_told(
    is_native: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("timm_effnet_ext.models.fold.has_bfloat16", lambda: is_native)
    optimize_for_inference(timm.create_model("hucorz_efficientnet_b0", **SMALL), dtype=torch.bfloat16)
    assert caplog.messages == ([] if is_native else [
        "this processor has no instructions for bfloat16: float32 is faster, and more exact"
    ])  # fmt: skip
