"""train.py's arguments are found as train.py finds them, and none is overruled without a word."""

import pytest

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.launcher.launch import check_options, find_asked, find_replaced_model_kwargs, make_options
from timm_effnet_ext.train.progressive.plan import parse

SPEC = "sizes=32,64 mixup=0:0.2 cutmix=0:1 dropout=0.3:0.1 drop_path=0.1"


@pytest.fixture
def config(tmp_path):
    """A function that writes a file for `-c` and returns its path."""

    def write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return str(path)

    return write


def values(*args):
    return {name: given.value for name, given in find_asked(args).items()}


def test_the_command_line_goes_before_the_file(config):
    path = config("model: from_file\nmixup: 0.1\ndrop: null\nlr: 1\n")
    assert values("data", "--model", "a", "--model-kwargs", "b=1") == {"model": "a", "model_kwargs": ["b=1"]}
    assert values("-c", path, "--lr", "1") == {"model": "from_file", "mixup": 0.1}
    assert values("--config", path, "--model", "a") == {"model": "a", "mixup": 0.1}


@pytest.mark.parametrize(
    "args",
    [
        ("--mixup", "0.5"),
        ("--mixup=0.5",),
        ("--mixup", "0.1", "--mixup", "0.5"),
        ("--scale", "0.1", "1.0", "--mixup", "0.5", "--mixup-prob", "0.3", "--mixup-mode", "pair"),
    ],
)
def test_an_option_is_found_however_it_is_written(args):
    assert values(*args) == {"mixup": "0.5"}


@pytest.mark.parametrize("option", ["-c", "--config", "--conf", "--c"])
def test_the_file_is_found_however_its_option_is_written(option, config):
    assert values(option, config("drop: 0.1")) == {"drop": 0.1}
    assert values(f"{option}{'=' * option.startswith('--')}{config('drop: 0.1')}") == {"drop": 0.1}


@pytest.mark.parametrize(
    "args", [("--model-ema",), ("--d", "0.1"), ("--mixup",), ("--", "--mixup", "1"), ("--drop-block", "1")]
)
def test_what_is_no_such_option_or_none_of_train_pys_asks_for_nothing(args):
    assert values(*args) == {}


@pytest.mark.parametrize("raw", [b"[1, 2", b"date: 2026-13-01", b"\xff"])
def test_a_file_that_is_no_yaml_is_named(raw, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(raw)
    with pytest.raises(EffNetExtError, match=r"c\.yaml: not YAML"):
        find_asked(["-c", str(path)])


def test_a_file_that_is_no_mapping_asks_for_nothing(config):
    assert values("-c", config("[1, 2]")) == {}


def clash(spec, *args):
    """Return what is said of a plan and of arguments that set the same; "" where they do not."""
    try:
        check_options(parse(spec).plan(None), find_asked(args))
    except EffNetExtError as err:
        return str(err).removeprefix("--progressive and options of the program set the same: ")
    return ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--mixup", "0.5"), "--mixup 0.5 beside mixup=0,0.2 (write mixup=off, or leave --mixup out)"),
        (("--mixup=0",), "--mixup 0 beside mixup=0,0.2 (write mixup=off, or leave --mixup out)"),
        (("--cutm", "0.5"), "--cutmix 0.5 beside cutmix=0,1 (write cutmix=off, or leave --cutmix out)"),
        (("--drop", "0.1"), "--drop 0.1 beside dropout=0.3,0.1 (write dropout=off, or leave --drop out)"),
        (
            ("--drop-p", "0.2"),
            "--drop-path 0.2 beside drop_path=0.1,0.1 (write drop_path=off, or leave --drop-path out)",
        ),
        (
            ("--mixup-off-epoch", "3"),
            "--mixup-off-epoch 3 beside mixup and cutmix (give one number a stage, 0 for the last)",
        ),
        (
            ("--train-size-schedule", "constant"),
            "--train-size-schedule constant beside the plan's sizes (leave --train-size-schedule out)",
        ),
        (
            ("--train-batch-sizes", "8", "4"),
            "--train-batch-sizes 8 4 beside the plan's sizes (leave --train-batch-sizes out)",
        ),
        (
            ("--train-size-random-mix=0.3", "--variable-batch-loss-scale", "linear"),
            "--train-size-random-mix 0.3 beside the plan's sizes (leave --train-size-random-mix out); "
            "--variable-batch-loss-scale linear beside the plan's sizes (leave --variable-batch-loss-scale out)",
        ),
    ],
)
def test_what_plan_and_program_set_to_two_values_is_refused_with_both(args, said):
    assert clash(SPEC, *args) == said


def test_a_file_sets_values_as_the_command_line_does(config):
    path = config("mixup: 0.5\ntrain_size_probs: [1, 2]\n")
    assert clash(SPEC, "-c", path) == (
        f"mixup: 0.5 in {path} beside mixup=0,0.2 (write mixup=off, or leave --mixup out); "
        f"train_size_probs: [1, 2] in {path} beside the plan's sizes (leave --train-size-probs out)"
    )


def test_equal_values_and_what_the_plan_leaves_are_no_clash(config):
    assert clash(SPEC, *make_options(parse(SPEC).plan(None))) == ""
    assert clash("sizes=32,64", "--mixup", "0.5", "--drop", "0.3", "--drop-path", "0.1", "--mixup-off-epoch", "3") == ""
    assert clash("sizes=32,64 mixup=0:0", "--mixup-off-epoch", "3") == ""
    assert clash("sizes=32,64 dropout=0.1:0.3 mixup=off", "--drop", "0.30", "--img-size", "96") == ""
    # the args.yaml of a run names every option
    defaults = "train_size_schedule_spread: 0.65\ntrain_size_random_mix: 0.1\nvariable_batch_loss_scale: none\n"
    assert clash(SPEC, "-c", config(f"{defaults}mixup_off_epoch: 0\ntrain_batch_sizes: null\nmixup: 0.2\n")) == ""


def test_train_py_is_told_to_mix_and_drop_and_its_epochs():
    plan = parse("sizes=32,64 mixup=0:0.2 dropout=0.3:0.1").plan(None)
    assert make_options(plan) == ["--train-size-schedule", "progressive", "--mixup", "0.2", "--drop", "0.3"]


def test_model_kwargs_of_the_file_are_lost_to_those_of_the_command_line(config):
    path = config("model_kwargs: {linear_probe: true, width_mult: 0.5}")
    assert find_replaced_model_kwargs(["-c", path]) == []
    assert find_replaced_model_kwargs(["-c", path, "--model-kwargs", "width_mult=1"]) == ["linear_probe"]
    assert find_replaced_model_kwargs(["-c", path, "--model-k", "width_mult=1", "linear_probe=1"]) == []
    assert find_replaced_model_kwargs(["-c", "5", "--model-kwargs", "width_mult=1"]) == []  # another program's -c
    assert find_replaced_model_kwargs(["-c", config("model_kwargs: [1]"), "--model-kwargs", "width_mult=1"]) == []
