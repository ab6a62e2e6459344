"""Progressive learning through timm's public names: what each step trains on is a function of its epoch alone."""

import copy
import multiprocessing
import pickle
import re

import pytest
import timm
import timm.data
import torch
from PIL import Image, ImageOps
from timm.data import FastCollateMixup, Mixup, ScheduledBatchSampler
from torch.utils.data import Dataset

from tests.closeness import FLOAT32, assert_close
from tests.small_models import SMALL, calibrated, images
from tests.train.spy import Spy
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.models.efficientnet import EfficientNet
from timm_effnet_ext.train.progressive.patch import COLUMNS, Recorder, make_progressive
from timm_effnet_ext.train.progressive.plan import parse
from timm_effnet_ext.train.runs import STAGES_FILE, csv_rows

SPEC = "sizes=32,40,48,64 randaug=3:9 mixup=0:0.3 dropout=0.1:0.4"
EPOCHS = 8
TINY = {**SMALL, "num_classes": 4}


def pillow_refuses_0_bits():
    """Whether Pillow does: older ones make the image black, and no operation fails at any magnitude."""
    try:
        ImageOps.posterize(Image.new("L", (1, 1)), 0)
    except ValueError:
        return True
    return False


needs_refusal = pytest.mark.skipif(not pillow_refuses_0_bits(), reason="this Pillow posterizes to 0 bits")


class Images(Dataset):
    """Sixteen images of noise in four classes, as timm's datasets give them."""

    transform = None

    def __getitem__(self, index):
        image = Image.effect_noise((70, 80), 64).convert("RGB")
        return (self.transform(image) if self.transform else image), index % 4

    def __len__(self):
        return 16


def plan_of(spec=SPEC):
    return parse(spec).plan(None)


def loader_of(**kwargs):
    defaults = {
        "input_size": (3, 64, 64),
        "batch_size": 4,
        "is_training": True,
        "batch_schedule_epochs": EPOCHS,
        "num_workers": 0,
        "device": torch.device("cpu"),
    }
    return timm.data.create_loader(Images(), **{**defaults, **kwargs})


@pytest.fixture
def spy(monkeypatch):
    """A spy whose hooks are gone after the test."""
    import numpy as np
    from timm.data.auto_augment import RandAugment

    for owner, name in ((RandAugment, "__call__"), (np.random, "beta"), (torch.nn.functional, "dropout")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    return Spy()


def train(spy, epochs):
    """Go through `epochs` as train.py does without its prefetcher; return what each step trained on."""
    mixup = timm.data.Mixup(mixup_alpha=0.3, num_classes=4)
    model = timm.create_model("hucorz_efficientnet_b0", **TINY).train()
    loader = loader_of(use_prefetcher=False)
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        for x, target in loader:
            x, target = mixup(x, target)
            model(x)
            spy.step(x)
    return spy.steps


def test_every_step_has_the_strengths_of_its_size(spy):
    plan = plan_of()
    with make_progressive(plan):
        steps = train(spy, range(EPOCHS))
    assert [step["size"] for step in steps] == [size for size in plan.sizes for _ in range(2 * 16 // 4)]
    for step in steps:
        stage = plan.at(step["size"])
        assert step["randaug"] == [stage.randaug]
        assert step.get("alpha", []) == ([pytest.approx(stage.mixup, abs=1e-6)] if stage.mixup else [])
        assert step["dropout"] == [pytest.approx(stage.dropout, abs=1e-6)]


def test_resumed_run_equals_the_uninterrupted_one_step_for_step(spy):
    with make_progressive(plan_of()):
        whole = list(train(spy, range(EPOCHS)))
    spy.steps.clear()
    with make_progressive(plan_of()):  # a new process, in the middle of the second stage
        resumed = train(spy, range(3, EPOCHS))
    assert resumed == whole[3 * 16 // 4 :]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("prefetcher", [True, False])
def test_sizes_do_not_depend_on_workers_or_prefetcher(workers, prefetcher):
    plan = plan_of("sizes=32,64 randaug=3:9")
    with make_progressive(plan):
        loader = loader_of(num_workers=workers, use_prefetcher=prefetcher, batch_schedule_epochs=2)
        sizes = []
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)
            sizes += [x.shape[-1] for x, _ in loader]
    assert sizes == [32] * 4 + [64] * 4


def test_spawned_workers_mix_by_size():
    plan = plan_of("sizes=32,64 mixup=0:0.5")
    with make_progressive(plan):
        loader = loader_of(
            num_workers=1,
            batch_schedule_epochs=2,
            collate_fn=timm.data.FastCollateMixup(mixup_alpha=0.5, num_classes=4),
        )
    loader.loader.multiprocessing_context = multiprocessing.get_context("spawn")
    hard = []
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        # label smoothing 0.1 over 4 classes: an unmixed target's largest value is 0.925
        hard.append(all(torch.allclose(target.max(1).values, torch.tensor(0.925)) for _, target in loader))
    assert hard == [True, False]


@pytest.mark.parametrize("name", ["Mixup", "FastCollateMixup"])
def test_mixup_is_off_where_the_plan_or_the_program_says_so(name):
    with make_progressive(plan_of("sizes=32,64 mixup=0:0.5")):
        mixup = getattr(timm.data, name)(mixup_alpha=0.5, num_classes=4)
    assert isinstance(mixup, Mixup if name == "Mixup" else FastCollateMixup)
    assert mixed(mixup, 64)
    assert not mixed(mixup, 32)
    mixup.mixup_enabled = False  # train.py's --mixup-off-epoch
    assert not mixed(mixup, 64)


def mixed(mixup, size):
    """Return whether any of several batches was mixed."""
    targets = []
    for _ in range(4):
        if isinstance(mixup, FastCollateMixup):
            batch = [(torch.zeros(3, size, size, dtype=torch.uint8).numpy(), i) for i in range(4)]
            targets.append(mixup(batch)[1])
        else:
            targets.append(mixup(torch.zeros(4, 3, size, size), torch.arange(4))[1])
    return any((target.max(1).values < 0.924).any() for target in targets)


def test_what_the_plan_leaves_is_the_programs_own():
    with make_progressive(plan_of("sizes=32,64")):
        mixup = timm.data.Mixup(mixup_alpha=0.7, cutmix_alpha=0.2, num_classes=4)
        model = timm.create_model("hucorz_efficientnet_b0", drop_rate=0.5, **TINY)
        loader = loader_of(auto_augment="rand-m7-n1")
    assert [(m.mixup_alpha, m.cutmix_alpha) for m in mixup.by_size.values()] == [(0.7, 0.2)] * 2
    assert type(model) is EfficientNet
    assert [magnitudes(transform) for transform in loader.dataset.transforms] == [{7}, {7}]


def test_the_programs_policy_keeps_all_but_its_magnitude():
    with make_progressive(plan_of("sizes=32,64 randaug=5:8")):
        loader = loader_of(auto_augment="rand-n1-mstd0.5-inc1")
    randaugment = loader.dataset.transforms[0].transforms[-2]
    assert (randaugment.num_layers, randaugment.ops[0].magnitude_std, randaugment.ops[0].magnitude) == (1, 0.5, 5)
    assert {op.magnitude_max for op in randaugment.ops} == {8}


def test_a_policy_may_name_the_last_magnitude_and_a_program_augment_nothing():
    with make_progressive(plan_of("sizes=32,64 randaug=5:8")):
        assert [magnitudes(transform) for transform in loader_of(auto_augment="rand-m8-mmax8").dataset.transforms] == [
            {5},
            {8},
        ]
    with make_progressive(plan_of("sizes=32,64")):
        assert [magnitudes(transform) for transform in loader_of(no_aug=True).dataset.transforms] == [set(), set()]


def magnitudes(transform):
    """Return the magnitudes of the RandAugment in a timm transform."""
    return {op.magnitude for step in transform.transforms for op in getattr(step, "ops", [])}


def test_stochastic_depth_scales_with_the_size():
    plan = plan_of("sizes=64,128 drop_path=0.1:0.4")
    with make_progressive(plan):
        model = timm.create_model("hucorz_efficientnet_b0", **TINY)
    rates = [block.drop_path.rates for stage in model.blocks for block in stage if hasattr(block.drop_path, "rates")]
    # the rate of block i of n is the model's times i / n; the first block has none
    n = sum(map(len, model.blocks))
    assert [[rate for _, rate in pairs] for pairs in rates] == [
        pytest.approx([0.1 * i / n, 0.4 * i / n]) for i in range(1, n)
    ]
    assert rates[-1][0][0] == 64 // 32
    assert rates[-1][1][0] == 128 // 32


def test_evaluation_loader_is_untouched():
    with make_progressive(plan_of()):
        loader = loader_of(is_training=False, batch_schedule_epochs=None)
    assert not isinstance(loader.batch_sampler, ScheduledBatchSampler)
    assert {x.shape[-1] for x, _ in loader} == {64}


def test_names_are_timms_again_afterwards():
    before = timm.data.create_loader, timm.models.create_model, timm.data.Mixup, timm.data.loader.ScheduledBatchSampler
    with pytest.raises(KeyError), make_progressive(plan_of()):
        raise KeyError
    after = timm.data.create_loader, timm.models.create_model, timm.data.Mixup, timm.data.loader.ScheduledBatchSampler
    assert before == after


def test_batches_grow_and_the_number_of_steps_stays():
    with make_progressive(plan_of("sizes=32,64 batch=grow")):
        loader = loader_of(batch_schedule_epochs=2)
    steps = []
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        steps.append([len(x) for x, _ in loader])
    assert steps == [[16], [4]]  # 16 images at 10 a batch on average make one step an epoch


def test_record_is_written_beside_the_summary(tmp_path):
    plan = plan_of("sizes=32,64 randaug=3:9 dropout=0.1:0.3")
    summary = tmp_path / "summary.csv"

    def run(epochs):
        with make_progressive(plan):
            loader = loader_of(batch_schedule_epochs=4)
            for epoch in epochs:
                loader.batch_sampler.set_epoch(epoch)
                list(loader)
                timm.utils.update_summary(epoch, {"loss": 1.0}, None, filename=str(summary), write_header=epoch == 0)

    run(range(3))
    run(range(2, 4))  # resumed: epoch 2 again
    rows = [row for _, row in csv_rows(tmp_path / STAGES_FILE)]
    columns = ("epoch", "stage", "size", "randaug", "mixup", "dropout", "images")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("0", "1", "32", "3", "", "0.1", "16"),
        ("1", "1", "32", "3", "", "0.1", "16"),
        ("2", "2", "64", "9", "", "0.3", "16"),
        ("3", "2", "64", "9", "", "0.3", "16"),
    ]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [STAGES_FILE, "summary.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,size\n0,32\n", "line 2: not a row of a progressive run"),
        (f"{','.join(COLUMNS)}\n0,1\n", "line 2: not a row of a progressive run"),
        (f"{','.join(COLUMNS)}\n{','.join('x' for _ in COLUMNS)}\n", "line 2: epoch: 'x' is not a whole number"),
        (f"{','.join(COLUMNS)}\n{','.join('1' for _ in COLUMNS)},1\n", "line 2: not a row of a progressive run"),
    ],
)
def test_a_damaged_record_of_the_run_that_is_resumed_is_refused_and_kept(text, message, tmp_path):
    (tmp_path / STAGES_FILE).write_text(text)
    with pytest.raises(EffNetExtError, match=re.escape(f"{STAGES_FILE} {message}. Is the file damaged?")):
        Recorder(plan_of(SPEC)).write(tmp_path)
    assert (tmp_path / STAGES_FILE).read_text() == text


def test_plan_is_printed_before_the_first_step(capsys):
    with make_progressive(plan_of()):
        loader_of()
    table = capsys.readouterr().err.splitlines()
    assert table[0].split() == [
        "stage",
        "epochs",
        "size",
        "batch",
        "randaug",
        "mixup",
        "cutmix",
        "dropout",
        "drop_path",
    ]
    assert table[3].split() == ["2", "2–3", "40", "4", "5", "0.1", "–", "0.2", "–"]


@pytest.mark.parametrize(
    ("spec", "kwargs", "message"),
    [
        (SPEC, {"input_size_choices": [32, 64]}, "keep one of them"),
        (SPEC, {"batch_schedule_epochs": None}, "--train-size-schedule"),
        (SPEC, {"batch_schedule_epochs": 3}, "3 epochs are fewer than the 4 stages"),
        (SPEC, {"auto_augment": "original"}, "--aa original has no magnitude"),
        (SPEC, {"auto_augment": "rand-m7-mmax10-n1"}, "m7-mmax10 of --aa rand-m7-mmax10-n1 beside randaug=3:9"),
        (SPEC, {"no_aug": True}, "--no-aug turns off the RandAugment"),
        pytest.param("sizes=32,64 randaug=1:9", {}, "Posterize of rand-n2-m1-mmax9 fails", marks=needs_refusal),
        pytest.param(
            "sizes=32,64 randaug=5:15",
            {"auto_augment": "rand-inc1"},
            "PosterizeIncreasing of rand-inc1-m15",
            marks=needs_refusal,
        ),
    ],
)
def test_a_loader_that_the_plan_does_not_fit_is_refused(spec, kwargs, message):
    with make_progressive(plan_of(spec)), pytest.raises(EffNetExtError, match=message):
        loader_of(**kwargs)


def test_models_that_cannot_drop_by_size_are_refused():
    with make_progressive(plan_of()), pytest.raises(EffNetExtError, match=r"use a hucorz_.* dropout=off"):
        timm.create_model("test_efficientnet")


def test_sizes_that_look_alike_deep_in_the_model_are_refused():
    with (
        make_progressive(plan_of("sizes=40,48 drop_path=0:0.2")),
        pytest.raises(EffNetExtError, match="feature maps of 3, 3 at stride 16"),
    ):
        timm.create_model("hucorz_efficientnet_b0", **TINY)


def test_loader_of_sequences_is_refused():
    with make_progressive(plan_of()), pytest.raises(EffNetExtError, match="--naflex-loader"):
        timm.data.create_naflex_loader(Images())


def test_cutmix_range_beside_a_cutmix_strength_is_refused():
    with make_progressive(plan_of("sizes=32,64 cutmix=0:1")), pytest.raises(EffNetExtError, match="--cutmix-minmax"):
        timm.data.Mixup(cutmix_minmax=(0.2, 0.8), num_classes=4)


def drops_by_size():
    """Return a model that drops by size, and its plan."""
    plan = plan_of("sizes=64,128 dropout=0.1:0.9 drop_path=0.1:0.4")
    with make_progressive(plan):
        return timm.create_model("hucorz_efficientnet_b0", **TINY).train(), plan


@pytest.mark.parametrize("training", [True, False])
def test_a_step_is_that_of_a_model_with_the_strengths_of_its_size(training):
    model, plan = drops_by_size()
    for size in plan.sizes:
        stage = plan.at(size)
        plain = timm.create_model(
            "hucorz_efficientnet_b0", drop_rate=stage.dropout, drop_path_rate=stage.drop_path, **TINY
        )
        plain.load_state_dict(model.state_dict())
        x = torch.randn(4, 3, size, size)
        outputs = []
        for one in (model, plain):
            torch.manual_seed(1)
            outputs.append(one.train(training)(x))
        assert torch.equal(*outputs)


def test_model_that_drops_by_size_compiles_whole():
    model, plan = drops_by_size()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for size in plan.sizes:
        compiled(torch.randn(2, 3, size, size))


def test_model_that_drops_by_size_can_be_scripted_and_copied():
    model, plan = drops_by_size()
    for made in (torch.jit.script(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for size in plan.sizes:
            outputs = []
            for one in (model, made):
                torch.manual_seed(1)
                outputs.append(one(images(size)))
            assert_close(*outputs, FLOAT32)  # another mask would differ by the size of the outputs themselves


def test_a_model_that_drops_by_size_ties_no_exported_program_to_one():
    model, _ = drops_by_size()
    dims = {2: torch.export.Dim("height", min=33), 3: torch.export.Dim("width", min=33)}
    exported = torch.export.export(calibrated(model), (images(80, 96),), dynamic_shapes=(dims,)).module()
    assert_close(exported(images(64)), model(images(64)), FLOAT32)


def test_lean_model_drops_by_size_as_the_eager_one():
    model, plan = drops_by_size()
    for size in plan.sizes:
        x = torch.randn(4, 3, size, size)
        features = []
        for lean in (False, True):
            model.set_lean_training(lean)
            torch.manual_seed(1)
            features.append(model.forward_features(x))
        assert_close(*features, FLOAT32)  # another mask would differ by the size of the features themselves
