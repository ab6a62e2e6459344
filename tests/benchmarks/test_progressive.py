"""The arms train for as long as they say, and what came of them is averaged and held against the fixed size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.arms import ARMS, FIXED, SIZE
from benchmarks.progressive import Result, _flops, _row, average
from tests.train.test_plot import write_costs, write_run
from timm_effnet_ext.train.progressive.plan import stage_of
from timm_effnet_ext.train.runs import read_run

LONGER = [name for name, arm in ARMS.items() if arm.is_as_long]


@pytest.mark.parametrize("name", LONGER)
def test_longer_arms_cost_what_the_fixed_size_costs_to_the_nearest_epoch(name: str) -> None:
    arm = ARMS[name]
    assert arm.plan is not None
    sizes, epochs = arm.plan.sizes, arm.epochs(12, _flops)
    assert sizes[-1] == SIZE

    def cost(epochs: int) -> float:
        return sum(_flops(sizes[stage_of(epoch, epochs, len(sizes))]) for epoch in range(epochs)) / _flops(SIZE)

    off = [abs(cost(n) - 12) for n in (epochs - 1, epochs, epochs + 1)]
    assert off[1] == min(off) < 0.5


def test_other_arms_train_as_many_epochs_as_the_fixed_size() -> None:
    assert [arm.epochs(12, _flops) for name, arm in ARMS.items() if name not in LONGER] == [12, 12, 12]


def test_the_last_stage_is_twice_as_long_where_two_sizes_have_the_same_feature_maps() -> None:
    plan = ARMS["paper-last-longer"].plan
    assert plan is not None
    before, last = plan.stages[-2:]
    assert _flops(before.size) == _flops(last.size)
    assert before == type(last)(before.size, last.randaug, last.mixup, last.cutmix, last.dropout, last.drop_path)


def test_the_strengths_of_the_fixed_size_are_those_of_every_last_stage() -> None:
    options = dict(zip(ARMS[FIXED].options[::2], ARMS[FIXED].options[1::2], strict=True))
    for arm in ARMS.values():
        if (plan := arm.plan) is not None:
            last = plan.stages[-1]
            assert options == {
                "--aa": f"rand-n2-m{last.randaug}-mmax{last.randaug}",
                "--mixup": f"{last.mixup:g}",
                "--drop": f"{last.dropout:g}",
            }


def test_the_mean_of_an_arm_has_its_name_and_the_costs_of_its_first_seed(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"fixed-{seed}", f"0,2.5,2.4,{10 + 10 * seed},50,0.1") for seed in range(2)]
    run = average([read_run(write_costs(folder, "0,32,32,9,1")) for folder in folders])
    assert (run.name, run.metrics["eval_top1"], len(run.costs)) == ("fixed", (15.0,), 1)


def test_a_row_compares_seed_by_seed() -> None:
    fixed = [Result(12, 100.0, 10.0, 20.0, 80.0, 81.0), Result(12, 100.0, 30.0, 20.0, 82.0, 81.0)]
    runs = [Result(16, 102.0, 9.0, 19.0, 81.0, 81.0), Result(16, 102.0, 27.0, 19.0, 83.0, 82.0)]
    assert _row("longer", runs, fixed) == [
        *("longer", "16", "82.00 ± 1.41", "1.00 ± 0.00", "81.50 ± 0.71"),
        *("102", "1.02", "18", "0.90", "19", "0.95"),
    ]
