"""The benchmark counts what it says it counts, and writes what it printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.__main__ import main
from benchmarks.contenders import Work, ours, train_step, trainers
from benchmarks.engines import ALWAYS, BFLOAT16, ENGINES, OTHER_FORMS, give_statistics, predictors
from benchmarks.measure import WARM_UP, Spread, alternate, kept_bytes, numbers_of
from benchmarks.parts import PARTS, Options, kept_memory, threads
from benchmarks.tables import Bar, Table

CPU = torch.device("cpu")


def test_a_layer_keeps_its_input_and_a_storage_counts_once() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(16, 8)
    # The image was there before; tanh keeps its output, which is the second layer's input: one storage.
    assert kept_bytes(model, lambda: model(x)) == 16 * 4 * 4
    assert kept_bytes(model, lambda: model(x + 1)) == 16 * 4 * 4 + 16 * 8 * 4


def test_what_checkpointing_holds_counts_too() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    x = torch.randn(16, 8)

    def forward() -> torch.Tensor:
        return torch.utils.checkpoint.checkpoint(model[1], model[0](x), use_reentrant=False, preserve_rng_state=False)

    assert kept_bytes(model, forward) == 16 * 8 * 4


def test_contenders_take_turns() -> None:
    order: list[str] = []
    taken = alternate({name: lambda name=name: order.append(name) for name in "ab"}, 2, CPU)
    assert order == ["a", "b"] * (WARM_UP + 2)  # the first rounds are not counted
    assert {name: len(rounds) for name, rounds in taken.items()} == {"a": 2, "b": 2}
    order.clear()
    taken = alternate({name: lambda name=name: order.append(name) for name in "ab"}, 1, CPU, runs=2)
    assert order == ["a", "a", "b", "b"] * (WARM_UP + 1)
    assert len(taken["a"]) == 1


# In a process of its own, as a command that another test ran here has this one keep freed memory.
COUNT = """
import torch
from benchmarks.measure import alternate
steps = {"new": lambda: torch.ones(2**26), "none": lambda: None}
taken = alternate(steps, 2, torch.device("cpu"))
print(*(min(one.faults for one in rounds) for rounds in taken.values()))
"""


def test_page_faults_are_counted() -> None:
    new, none = numbers_of(COUNT)
    assert new > none + 100  # 256 MB, given back each time: 65536 pages, or 128 where the system gives huge ones


def test_a_block_has_its_threads() -> None:
    usual = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == usual
    with threads(None):
        assert torch.get_num_threads() == usual


def test_statistics_keep_feature_maps_from_shrinking() -> None:
    work = Work("efficientnet_b0", 64, 4, CPU)
    sizes = []
    for model in (ours(work).eval(), ours(work)):
        if sizes:
            give_statistics(model, work.images())
        with torch.inference_mode():
            sizes.append(float(model.forward_features(work.images()).abs().mean()))
    assert sizes[0] < 1e-3 < 1e-2 < sizes[1]


@pytest.mark.slow  # four processes
def test_processes_that_keep_memory_take_fewer_pages() -> None:
    for table in kept_memory(Options(CPU, quick=True)):
        assert table.values["as under run"].faults < table.values["as it is"].faults


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 8.0]) == (1.0, 3.0, 3, None)
    assert Spread.of([3.0, 1.0, 8.0], [5, 9, 4]) == (1.0, 3.0, 3, 4)


def test_numbers_of_another_process() -> None:
    assert numbers_of("import sys; print(sys.argv[1], 2.5)", 7) == [7, 2.5]


@pytest.mark.parametrize("arch", ["efficientnet_b0", "efficientnet_cc_b0_8e"])  # torchvision has no second
def test_every_contender_trains_and_predicts(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(arch, 32, 2, CPU)
    for model, images in trainers(work, compiled=False).values():
        train_step(model, images)()
        assert all(p.grad is None for p in model.parameters())
    monkeypatch.setattr("benchmarks.engines.is_there", lambda engine: False)  # those take an export
    monkeypatch.setattr("benchmarks.contenders.is_there", lambda engine: False)
    monkeypatch.setattr("benchmarks.engines.has_bfloat16", lambda: True)
    with predictors(work, (*ALWAYS, BFLOAT16, *ENGINES)) as steps:
        assert list(steps) == ["timm", "timm channels_last", "ours", "optimized", BFLOAT16]
        for step in steps.values():
            step()


@pytest.mark.slow  # three exports to ONNX
def test_every_engine_predicts() -> None:
    with predictors(Work("efficientnet_b0", 32, 2, CPU), (*ENGINES, *OTHER_FORMS)) as steps:
        for step in steps.values():
            step()


def table() -> Table:
    bars = (Bar(0.5, (("ours", "timm"),)), Bar(1.0, (("ours", "timm"),)))
    return Table("train", "Step", "ms", {"timm": Spread(8, 9, 3), "ours": Spread(6, 7, 3)}, bars)


def test_the_best_pair_is_held_to_the_bar() -> None:
    values = {name: Spread.of([value]) for name, value in zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True)}
    found = Table("x", "x", "ms", values)
    assert found.ratio(Bar(1.0, (("a", "b"), ("c", "d")))) == 0.5


def test_the_command_prints_bars_and_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(PARTS, "train", lambda options: iter([table()]))
    assert main(["--only", "train", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "MISSED: ours / timm 0.750 (bar 0.500)" in printed
    assert "holds: ours / timm 0.750 (bar 1.000)" in printed
    written: dict[str, Any] = json.loads((tmp_path / "bench.json").read_text())
    assert written["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert written["tables"][0]["values"]["ours"] == {"min": 6, "median": 7, "rounds": 3, "faults": None}
    assert [bar["holds"] for bar in written["tables"][0]["bars"]] == [False, True]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.json", "bench.png"]


def test_without_matplotlib_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--quick", "-o", str(tmp_path / "out")]) == 1
    assert "error: the picture needs matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
