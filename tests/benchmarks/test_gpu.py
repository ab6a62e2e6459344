"""The script for a borrowed GPU works there the first time: all but CUDA itself is tried here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import comparisons, device, laws, training, wheels
from benchmarks.gpu.conduct import FORKED, SPAWNED, Unfinished, conduct
from benchmarks.gpu.items import ITEMS, PARTS, Item
from benchmarks.gpu.report import Report
from benchmarks.gpu.training import Off, Verdict
from benchmarks.measure import Spread
from benchmarks.parts import Options
from benchmarks.tables import Table
from tests.processes import ROOT
from timm_effnet_ext.models import lean

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
QUICK = Options(CPU, quick=True)


@pytest.fixture(autouse=True)
def one_arch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (laws, training):
        monkeypatch.setattr(module, "ARCHS", ("efficientnet_b0",))


@pytest.mark.parametrize("name", laws.LAWS)
def test_every_law_holds_here(name: str) -> None:
    verdict = laws.try_law(name, QUICK)
    assert verdict.holds, [str(off) for off in verdict.offs if not off.holds]


def test_a_wrong_gradient_is_found_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lean._Squeeze.backward

    def wrong(*args: Any) -> Any:
        d_x, params = right(*args)
        return d_x * 1.01, params

    monkeypatch.setattr(lean._Squeeze, "backward", wrong)
    for name in ("float64: gradients, statistics, random numbers", "float32", "torch.compile"):
        holds = laws.try_law(name, QUICK).holds
        assert holds == (name == "torch.compile")  # which sees the plain model
    report = Report(Path())
    report.add(laws.try_law("float32", QUICK))
    assert report.failed == ["law: float32"]


def test_statistics_taken_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(norm: Any, y: Any, gamma: Any, beta: Any) -> Any:
        lean_batch_norm(norm, y, gamma, beta)
        return lean_batch_norm(norm, y, gamma, beta)

    lean_batch_norm = lean._batch_norm
    monkeypatch.setattr(lean, "_batch_norm", twice)
    verdict = laws.try_law("float32", QUICK)
    assert [off.what for off in verdict.offs if not off.holds] == [
        "efficientnet_b0 statistics", "efficientnet_b0 channels_last statistics",
    ]  # fmt: skip


def test_lean_training_that_is_not_at_work_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_effnet_ext.models.efficientnet.lean_applies", lambda *_: False)
    assert not laws.try_law("less is kept for backward", QUICK).holds


def test_memory_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    right = lean._normalize
    monkeypatch.setattr(lean, "_normalize", lambda *args: (kept.append(right(*args)), kept[-1])[1])
    assert not laws.try_law("nothing is left after a step", QUICK).holds


def test_a_skipped_step_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lean._Link.backward

    def overflowing(*args: Any) -> Any:
        return tuple(None if d is None else d * torch.inf for d in right(*args))

    monkeypatch.setattr(lean._Link, "backward", staticmethod(overflowing))
    assert not laws.try_law("GradScaler meets infinity", QUICK).holds


@pytest.mark.parametrize("off", [0.2, float("nan")])
def test_what_is_off_or_no_number_fails(off: float) -> None:
    assert not Off("x", off, 0.1).holds
    assert not Verdict("x", (Off("x", 0.0, 0.0), Off("x", off, 0.1))).holds
    assert not Verdict("x", ()).holds  # nothing was compared


def test_the_calls_of_cuda_are_those_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("Stream", "stream", "current_stream", "CUDAGraph", "graph", "synchronize", "memory_allocated",
                 "get_rng_state", "empty_cache", "max_memory_allocated", "reset_peak_memory_stats"):  # fmt: skip
        fake = create_autospec(getattr(torch.cuda, name))
        monkeypatch.setattr(torch.cuda, name, fake)
    torch.cuda.memory_allocated.return_value = 3  # type: ignore[attr-defined]
    torch.cuda.max_memory_allocated.return_value = 5  # type: ignore[attr-defined]
    replay = device.graphed(lambda: calls.append("step"), CUDA)
    assert calls == ["step"] * 4
    assert replay is torch.cuda.CUDAGraph.return_value.replay  # type: ignore[attr-defined]
    torch.cuda.graph.assert_called_once_with(torch.cuda.CUDAGraph.return_value)  # type: ignore[attr-defined]
    assert device.used_bytes(CUDA) == 3
    assert device.first_out_of_memory({"a": lambda: calls.append("a")}, CUDA) is None
    assert comparisons.peak_bytes(lambda: calls.append("b"), CUDA) == 2
    device.random_state(CUDA), device.free(CUDA)
    assert calls[-2:] == ["a", "b"]


def test_a_batch_too_large_is_halved_and_named() -> None:
    def make(work: Any) -> dict[str, Any]:
        def step(limit: int) -> None:
            if work.batch > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        return {"small": lambda: step(64), "large": lambda: step(16)}

    work, steps, note = comparisons._fit(comparisons.Work("efficientnet_b0", 224, 128, CPU), make)
    assert (work.batch, list(steps)) == (16, ["small", "large"])
    assert note == (" (small was out of memory at 128) (large was out of memory at 64) (large was out of memory at 32)")
    with pytest.raises(
        comparisons.EffNetExtError, match="efficientnet_b0 @224, batch 1: the memory does not hold tiny"
    ):
        comparisons._fit(work, lambda work: {"tiny": lambda: make(work._replace(batch=65))["small"]()})


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Options:
    """A CPU that calls itself a GPU, where compiling takes no time and the peak is known."""

    class Device:
        type = "cuda"

    monkeypatch.setattr(torch, "compile", lambda model, **kwargs: model)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(comparisons, "peak_bytes", lambda step, device: step() or 2**20)
    monkeypatch.setattr(comparisons, "_work", lambda options, arch, size: comparisons.Work(arch, 32, 2, CPU))
    return Options(Device(), quick=True)  # type: ignore[arg-type]


def test_times_and_peaks_of_a_step(like_a_gpu: Options) -> None:
    for contenders in (comparisons.EAGER, comparisons.COMPILED):
        times, peaks = comparisons.train(like_a_gpu, "efficientnet_b0", 224, contenders)
        assert times.title == "Training step, efficientnet_b0 @32, batch 2, autocast to bfloat16"
        assert tuple(times.values) == tuple(peaks.values) == contenders
        assert {spread.min for spread in peaks.values.values()} == {1.0}


def test_inference_beside_what_is_compiled(like_a_gpu: Options) -> None:
    (table,) = comparisons.predict(like_a_gpu, "efficientnet_b0", 224)
    assert {"timm", "optimized", "timm compiled", "optimized compiled"} <= table.values.keys()


def test_images_a_second_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "_STAGED_ARCH", "efficientnet_b0")
    (table,) = comparisons.learn_progressively(QUICK)
    assert list(table.values) == [f"{side} @{size}, batch 4" for size in (32, 46, 60, 75) for side in ("timm", "lean")]
    assert table.unit == "images/s"


def count(upto: int) -> Iterator[int]:
    yield from range(upto)


def fail() -> Iterator[int]:
    yield 1
    raise ValueError("no\nsecond line")


def die() -> Iterator[int]:
    yield 1
    os._exit(7)


def hang() -> Iterator[int]:
    yield 1
    time.sleep(600)


@pytest.mark.parametrize("method", [FORKED, SPAWNED])
def test_what_a_process_finds_comes_back(method: str) -> None:
    assert list(conduct(count, 3, seconds=300, method=method)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("run", "seconds", "message"),
    [
        (fail, 300, "ValueError: no"),
        (die, 300, "its process ended with 7"),
        (hang, 30, "it took too long and was ended"),
    ],
)
def test_what_was_found_before_a_failure_is_kept(run: Any, seconds: float, message: str) -> None:
    found = conduct(run, seconds=seconds)
    assert next(found) == 1
    with pytest.raises(Unfinished) as caught:
        next(found)
    assert str(caught.value) == message


def test_nothing_touches_a_gpu_when_it_is_imported() -> None:
    """A process that has cannot be forked."""
    program = """
import torch
for name in ("_lazy_init", "is_available", "device_count", "init", "current_device"):
    def touch(*args, name=name):
        raise SystemExit(f"{name} was called")
    setattr(torch.cuda, name, touch)
import benchmarks.gpu.conduct
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


TABLE = Table("train", "Step", "ms", {"timm": Spread(8, 9, 3), "lean": Spread(6, 7, 3)})


@pytest.fixture
def items(monkeypatch: pytest.MonkeyPatch) -> dict[str, Item]:
    """Items that take no time, conducted in this process."""

    def fails(options: Options) -> Iterator[Any]:
        yield TABLE
        raise Unfinished("its process ended with -11")

    made = {
        "law: right": Item("laws", 10, lambda options: [Verdict("right", (Off("gradients", 0.1, 0.2),))]),
        "broken": Item("train", 10, fails),
        "long": Item("train", 3600, lambda options: [TABLE]),
        "short": Item("train", 10, lambda options: [TABLE]),
        "compiled": Item("compiled", 10, lambda options: [TABLE], is_compiled=True),
    }

    def conduct_here(run: Any, *args: Any, seconds: float, method: str) -> Iterator[Any]:
        yield from (run(*args) if run is device.describe else made[args[0]].run(args[1]))

    monkeypatch.setattr(command, "ITEMS", made)
    monkeypatch.setattr(command, "conduct", conduct_here)
    return made


def test_one_failure_does_not_cost_the_others(
    items: dict[str, Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert command.main(["--device", "cpu", "-o", str(tmp_path)]) == 1
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["items"].pop("long").startswith("skipped: takes about 3600 s, ")
    assert written["items"] == {
        "law: right": "done",
        "broken": "failed: its process ended with -11",
        "short": "done",
        "compiled": "skipped: inductor takes minutes on a CPU",
    }
    assert [table["title"] for table in written["tables"]] == ["Step", "Step"]  # what `broken` found is kept
    assert written["laws"] == [
        {"law": "right", "holds": True,
         "found": [{"what": "gradients", "off": 0.1, "allowed": 0.2, "holds": True}]},
    ]  # fmt: skip
    assert written["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert "stand-ins" in written["machine"]
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "holds: right" in printed
    assert printed.endswith("2 done, 2 skipped, failed: broken\n")


def test_a_law_that_fails_is_said_and_returned(
    items: dict[str, Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = Verdict("wrong", (Off("gradients", 0.3, 0.2), Off("loss", 0.1, 0.2)))
    items["law: right"] = items["law: right"]._replace(run=lambda options: [verdict])
    assert command.main(["--device", "cpu", "--only", "laws", "-o", str(tmp_path)]) == 1
    assert "FAILS: wrong; gradients off by 3.0e-01, allowed 2.0e-01\n" in capsys.readouterr().out


def test_what_holds_returns_0(items: dict[str, Item], tmp_path: Path) -> None:
    assert command.main(["--device", "cpu", "--only", "laws", "compiled", "-o", str(tmp_path)]) == 0


def test_without_matplotlib_all_but_the_picture_is_there(
    items: dict[str, Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command.main(["--device", "cpu", "-o", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]
    assert "the picture needs matplotlib" in capsys.readouterr().err


def test_where_no_process_can_use_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, method: str, **kwargs: Any) -> Iterator[Any]:
        raise Unfinished("RuntimeError: no kernel") if method == FORKED else OSError("no sockets")
        yield

    monkeypatch.setattr(command, "conduct", refuse)
    assert command.main(["--device", "cpu", "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "forkserver: RuntimeError: no kernel",
        "spawn: no sockets",
        "error: --device cpu: no process can use it, see above",
    ]


@pytest.mark.parametrize(
    ("name", "expected"), [("foo", "expected cuda, cuda:N or cpu"), ("mps", "expected cuda, cuda:N or cpu")]
)
def test_other_devices_are_refused(name: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", name]) == 1
    assert capsys.readouterr().err == f"error: --device {name}: {expected}\n"


@pytest.mark.parametrize(
    ("name", "count", "seen"), [("cuda", 0, "no GPU"), ("cuda:2", 2, "2 GPUs, counted from 0"), ("cuda:1", 2, None)]
)
def test_a_missing_gpu_is_said(name: str, count: int, seen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if seen is None:
        device.check(torch.device(name))
        return
    with pytest.raises(device.EffNetExtError) as caught:
        device.check(torch.device(name))
    assert str(caught.value) == f"--device {name}: this PyTorch sees {seen}; --device cpu tries the script alone"


def test_the_worth_is_the_order() -> None:
    order = [item.part for item in ITEMS.values()]
    assert order == sorted(order, key=lambda part: ("laws", "train").index(part) if part in ("laws", "train") else 2)
    assert PARTS == ("laws", "train", "progressive", "compiled", "inference")


@pytest.mark.slow  # a quarter of an hour where cores are shared
def test_the_whole_script_without_a_gpu(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--minutes", "60", "-o", str(tmp_path)]
    subprocess.run(run, cwd=ROOT, check=True)
    outcomes = json.loads((tmp_path / "gpu.json").read_text())["items"]
    assert {outcomes[name] for name, item in ITEMS.items() if not item.is_compiled} == {"done"}


def test_wheels_are_what_a_machine_with_torch_lacks() -> None:
    (call,) = wheels.commands("folder", "3.12", with_torch=False)
    names = {word.partition("==")[0] for word in call if "==" in word}
    assert {"timm", "safetensors", "h5py", "google-crc32c", "tabulate", "matplotlib", "pyyaml"} <= names
    assert not {"torch", "torchvision", "numpy", "timm-effnet-ext", "pytest"} & names
    _, torchs = wheels.commands("folder", "3.12", with_torch=True)
    assert torchs[-2:] == [f"{n}=={wheels.installed(n)[n].partition('+')[0]}" for n in ("torch", "torchvision")]


@pytest.mark.parametrize("args", [["--python", "3"], ["--python", "3.99", "--torch"]])
def test_wheels_for_a_python_that_cannot_be(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        wheels.main(["folder", *args])
    assert "expected 3.N" in capsys.readouterr().err
