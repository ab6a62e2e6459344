"""The presets are their sources' numbers, and the stages are equal parts of the run."""

import pytest

from timm_effnet_ext.arch.rows import ARCHS
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.plan import Plan, TrainStage, make_plan, stage_of
from timm_effnet_ext.train.progressive.presets import GOOGLE, PAPER, PRESETS, Ramp

# arXiv:2104.00298 Table 6: (smallest, largest) of image size, RandAugment, mixup alpha, dropout rate
TABLE_6 = {
    "efficientnetv2_s": ((128, 300), (5, 15), (0, 0), (0.1, 0.3)),
    "efficientnetv2_m": ((128, 380), (5, 20), (0, 0.2), (0.1, 0.4)),
    "efficientnetv2_l": ((128, 380), (5, 25), (0, 0.5), (0.1, 0.5)),
}

# google/automl main_tf2.py `image_size` worked out by hand for base = size / 2
GOOGLE_SIZES = {
    "efficientnetv2_s": (187, 225, 262, 300),
    "efficientnetv2_m": (240, 288, 336, 384),
    "efficientnetv2_l": (240, 288, 336, 384),
    "efficientnetv2_xl": (240, 288, 336, 384),
    "efficientnetv2_b0": (120, 144, 168, 192),
    "efficientnetv2_b1": (120, 144, 168, 192),
    "efficientnetv2_b2": (130, 156, 182, 208),
    "efficientnetv2_b3": (150, 180, 210, 240),
}


@pytest.mark.parametrize("arch", TABLE_6)
def test_paper_preset_spans_table_6(arch):
    plan = make_plan(PAPER[arch])
    first, last = plan.stages[0], plan.stages[-1]
    found = [(getattr(first, name), getattr(last, name)) for name in ("size", "randaug", "mixup", "dropout")]
    assert found == [pytest.approx(pair) for pair in TABLE_6[arch]]
    assert plan.strengths("cutmix") is None


def test_paper_preset_of_s_is_linear():
    plan = make_plan(PAPER["efficientnetv2_s"])
    assert plan.sizes == (128, 185, 242, 300)
    assert plan.strengths("randaug") == (5, 8, 12, 15)
    assert plan.strengths("dropout") == pytest.approx((0.1, 0.5 / 3, 0.7 / 3, 0.3))


@pytest.mark.parametrize("arch", GOOGLE_SIZES)
def test_google_preset_has_the_sizes_of_its_code(arch):
    assert make_plan(GOOGLE[arch]).sizes == GOOGLE_SIZES[arch]


def test_google_preset_of_m_raises_mixup_and_cutmix_and_leaves_dropout():
    plan = make_plan(GOOGLE["efficientnetv2_m"])
    assert plan.strengths("mixup") == plan.strengths("cutmix") == pytest.approx((0, 0.2 / 3, 0.4 / 3, 0.2))
    assert plan.strengths("randaug") == (5, 8, 12, 15)
    assert plan.strengths("dropout") is None


def test_google_sizes_cost_two_thirds_of_the_flops():
    sizes = make_plan(GOOGLE["efficientnetv2_b0"]).sizes
    # FLOPs go with pixels: the mean of (5/8, 6/8, 7/8, 8/8) squared
    assert sum((size / sizes[-1]) ** 2 for size in sizes) / 4 == pytest.approx(0.68, abs=0.005)


def test_every_preset_names_an_architecture_and_makes_a_plan():
    for rows in PRESETS.values():
        for arch, settings in rows.items():
            assert arch in ARCHS
            assert len(make_plan(settings).stages) == 4


@pytest.mark.parametrize("epochs", [4, 5, 7, 8, 350])
def test_stages_are_equal_parts_in_order(epochs):
    stages = [stage_of(epoch, epochs, 4) for epoch in range(epochs)]
    assert stages == sorted(stages)
    lengths = [stages.count(stage) for stage in range(4)]
    assert sum(lengths) == epochs
    assert max(lengths) - min(lengths) <= 1


def test_stages_of_350_epochs_start_where_googles_do():
    # int(stage / 4 * 350): google/automl main_tf2.py `start_epoch`
    starts = [next(e for e in range(350) if stage_of(e, 350, 4) == stage) for stage in range(4)]
    assert starts == [0, 87, 175, 262]


def test_epochs_after_the_end_stay_in_the_last_stage():
    assert stage_of(12, 8, 4) == 3


def test_grown_batches_hold_no_more_pixels_than_the_last():
    plan = make_plan({"sizes": (128, 185, 242, 300)}, grow_batch=True)
    batches = plan.batch_sizes(32)
    assert batches == (168, 80, 48, 32)
    assert all(b * s**2 <= 32 * 300**2 for b, s in zip(batches, plan.sizes, strict=True))


def test_batches_do_not_grow_unasked():
    assert make_plan({"sizes": (128, 300)}).batch_sizes(32) == (32, 32)


def test_plan_finds_a_stage_by_size():
    plan = Plan((TrainStage(32, randaug=5), TrainStage(64, randaug=10)))
    assert plan.at(64).randaug == 10
    assert plan.at(48) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"randaug": Ramp(5, 15)}, "no sizes"),
        ({"sizes": (64, 32)}, "must be at least two and grow, got 64,32"),
        ({"sizes": (64,)}, "at least two"),
        ({"sizes": (32, 64), "mixup": (0.0, 0.1, 0.2)}, "mixup has 3 values for 2 stages"),
    ],
)
def test_settings_that_make_no_plan_are_refused(settings, message):
    with pytest.raises(EffNetExtError, match=message):
        make_plan(settings)
