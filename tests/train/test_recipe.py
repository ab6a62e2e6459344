"""Every recipe is YAML that train.py takes: its names, its types, and what timm makes of its values."""

import runpy
import sys
from argparse import Namespace

import pytest
import timm
import yaml
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import timm_effnet_ext  # noqa: F401  registers the models
from tests.small_models import SMALL
from tests.train.launching import TRAIN_PY, needs_train_py
from tests.train.options import OPTIONS
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train import recipe
from timm_effnet_ext.train.launcher.launch import check_options, find_asked
from timm_effnet_ext.train.progressive.plan import parse

NAMES = recipe.list_names()


def load(name):
    return yaml.safe_load(recipe.read_text(name))


@pytest.fixture(scope="module")
def train_py():
    """The real train.py as a module that has not run."""
    return runpy.run_path(TRAIN_PY, run_name="train_py")


def test_recipes_of_the_readme_are_there():
    assert {"linear-probe-b0", "progressive-v2-s"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_says_what_it_is_for_how_to_run_it_and_where_its_numbers_are_from(name):
    title, command, *_ = lines = recipe.read_text(name).splitlines()
    assert title.startswith("# ")
    assert title.endswith(".")
    assert f"train.py -c {name}.yaml" in command
    assert any(line.startswith("# Source: ") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_sets_only_options_of_train_py(name):
    # train.py itself takes any name without a word
    assert load(name).keys() <= OPTIONS


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_numbers(name):
    # YAML reads 1e-4 as text
    words = {"model", "opt", "sched", "lr_base_scale", "aa", "train_interpolation", "amp_dtype"}
    assert {key for key, value in load(name).items() if isinstance(value, str)} <= words


@pytest.mark.parametrize("name", NAMES)
def test_model_of_a_recipe_can_be_made_and_optimised_as_it_says(name):
    config = load(name)
    kwargs = {key: config[key] for key in ("bn_momentum",) if key in config}
    model = timm.create_model(config["model"], num_classes=4, **SMALL, **kwargs, **config.get("model_kwargs", {}))
    optimizer = create_optimizer_v2(
        model,
        opt=config["opt"],
        lr=config.get("lr", config.get("lr_base")),
        weight_decay=config["weight_decay"],
        layer_decay=config.get("layer_decay"),
        **({"eps": config["opt_eps"]} if "opt_eps" in config else {}),
    )
    names = ("decay_epochs", "decay_rate", "warmup_epochs", "warmup_lr")
    schedule = {key: config[key] for key in names if key in config}
    scheduler, epochs = create_scheduler_v2(optimizer, config["sched"], num_epochs=config["epochs"], **{**schedule})
    assert epochs == config["epochs"]
    scheduler.step(epochs)
    ratio = optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["initial_lr"]
    assert ratio == pytest.approx(1.0) if config.get("decay_rate") == 1 else ratio < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_of_a_recipe_is_timms(name):
    create_transform(64, is_training=True, auto_augment=load(name).get("aa"))


@pytest.mark.parametrize("name", [name for name in NAMES if "progressive" in name])
def test_progressive_recipe_has_a_preset_and_evaluates_at_the_models_test_size(name):
    config = load(name)
    plan = parse("auto").plan(config["model"])
    cfg = timm.get_pretrained_cfg(config["model"])
    assert config["img_size"] == cfg.test_input_size[-1] > plan.sizes[-1]


@pytest.mark.parametrize("name", [name for name in NAMES if "progressive" in name])
def test_progressive_recipe_sets_nothing_that_its_plan_sets(name, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(recipe.read_text(name))
    given = find_asked(["-c", str(path)])
    check_options(parse("auto").plan(given["model"].value), given)


def test_command_prints_a_recipe_as_it_is(capsys):
    assert main(["recipe", "finetune-b0"]) == 0
    assert capsys.readouterr().out == recipe.read_text("finetune-b0")


def test_command_lists_the_recipes(capsys):
    assert main(["recipe", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert lines[0].endswith("Fine-tune all of pretrained EfficientNet-B0 on a folder of images")


def test_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(EffNetExtError, match="no recipe 'finetune-b1'; did you mean finetune-b0"):
        recipe.read_text("finetune-b1")


@needs_train_py
def test_options_are_those_of_the_real_train_py(train_py):
    assert {action.dest for action in train_py["parser"]._actions} - {"help"} == OPTIONS


@needs_train_py
@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_parsed_by_the_real_train_py(name, train_py, tmp_path, monkeypatch):
    path = tmp_path / "r.yaml"
    path.write_text(recipe.read_text(name))
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", str(path), "--data-dir", "images"])
    args, text = train_py["_parse_args"]()
    assert isinstance(args, Namespace)
    for key, value in load(name).items():
        assert getattr(args, key) == value
        action = next(action for action in train_py["parser"]._actions if action.dest == key)
        assert action.type is None or isinstance(value, action.type | int if action.type is float else action.type)
    assert yaml.safe_load(text)["model"] == load(name)["model"]
