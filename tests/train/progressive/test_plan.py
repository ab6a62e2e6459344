"""What may be written after `--progressive`, and how it is refused."""

import pytest

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.progressive.plan import make_plan, parse
from timm_effnet_ext.train.progressive.presets import GOOGLE, PAPER


@pytest.mark.parametrize(
    "model", ["hucorz_efficientnetv2_s", "hucorz_efficientnetv2_s.in21k", "tf_efficientnetv2_s", "efficientnetv2_s"]
)
def test_auto_takes_the_papers_row_of_the_model(model):
    assert parse("auto").plan(model) == make_plan(PAPER["efficientnetv2_s"])


def test_auto_takes_googles_row_where_the_paper_has_none():
    assert parse("auto").plan("hucorz_efficientnetv2_xl") == make_plan(GOOGLE["efficientnetv2_xl"])


def test_a_preset_may_name_the_architecture():
    assert parse("google:efficientnetv2_s").plan("resnet50") == make_plan(GOOGLE["efficientnetv2_s"])


def test_settings_override_the_preset():
    plan = parse("auto randaug=3:9 dropout=off cutmix=1").plan("hucorz_efficientnetv2_s")
    assert plan.strengths("randaug") == (3, 5, 7, 9)
    assert plan.strengths("dropout") is None
    assert plan.strengths("cutmix") == (1, 1, 1, 1)
    assert plan.sizes == (128, 185, 242, 300)


def test_settings_alone_make_a_plan_for_any_model():
    plan = parse("sizes=128,185,242,300 randaug=5:15 mixup=0:0.2 dropout=0.1:0.3").plan(None)
    assert plan.sizes == (128, 185, 242, 300)
    assert plan.strengths("mixup") == pytest.approx((0, 0.2 / 3, 0.4 / 3, 0.2))
    assert plan.strengths("drop_path") is None


def test_the_number_of_sizes_is_the_number_of_stages():
    assert parse("paper sizes=64,128").plan("hucorz_efficientnetv2_s").strengths("randaug") == (5, 15)


def test_batch_grow_is_a_setting():
    assert parse("sizes=32,64 batch=grow").plan(None).batch_sizes(8) == (32, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("autoo", "no preset 'autoo'; there are auto, paper, google"),
        ("paper:efficientnetv2_b0", "'paper' has no 'efficientnetv2_b0'; it has efficientnetv2_s"),
        ("auto rand=3", "'rand=3' is no setting; there are sizes=, randaug="),
        ("auto mixup", "'mixup' is no setting"),
        ("auto batch=big", "'batch=big' is no setting"),
        ("auto dropout=0:1", "dropout: '1' is not a rate"),
        ("auto mixup=-0.1", "mixup: '-0.1' is not a number from 0"),
        ("auto randaug=nan", "randaug: 'nan' is not a magnitude"),
        ("auto randaug=", "randaug: '' is not a magnitude"),
        ("sizes=1:2:3", "a ramp is first:last"),
        ("sizes=off", "nothing to schedule"),
    ],
)
def test_wrong_text_is_refused_with_what_is_right(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("model", ["resnet50", "hucorz_efficientnet_b0", None])
def test_a_model_without_a_schedule_is_refused_with_those_that_have_one(model):
    with pytest.raises(EffNetExtError, match=r"auto:efficientnetv2_s.*sizes="):
        parse("auto").plan(model)
