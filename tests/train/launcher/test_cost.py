"""What an epoch cost is written for every run: images of every size, and seconds."""

import pytest
import timm.data
import timm.utils
import torch
from PIL import Image
from torch.utils.data import Dataset

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.launcher.cost import record_costs
from timm_effnet_ext.train.progressive.patch import make_progressive
from timm_effnet_ext.train.progressive.plan import parse
from timm_effnet_ext.train.runs import ARGS_FILE, COST_FILE, STAGES_FILE, SUMMARY_FILE, csv_rows, read_costs, read_run


class Images(Dataset):
    """Ten grey images, as timm's datasets give them."""

    transform = None

    def __getitem__(self, index):
        image = Image.new("RGB", (70, 80), (128, 128, 128))
        return (self.transform(image) if self.transform else image), index % 4

    def __len__(self):
        return 10


def loader_of(**kwargs):
    defaults = {"input_size": (3, 32, 48), "batch_size": 2, "is_training": True, "num_workers": 0}
    return timm.data.create_loader(Images(), device=torch.device("cpu"), **{**defaults, **kwargs})


def train(folder, epochs, *, evaluated=(0, 1, 2, 3), **kwargs):
    """Pass over a loader as train.py does, with a summary after the epochs that are evaluated."""
    loader = loader_of(**kwargs)
    for epoch in epochs:
        if hasattr(loader.batch_sampler, "set_epoch"):
            loader.batch_sampler.set_epoch(epoch)
        for _ in loader:
            pass
        for _ in loader_of(is_training=False):
            pass
        if epoch in evaluated:
            path = str(folder / "summary.csv")
            timm.utils.update_summary(epoch, {"loss": 1.0}, None, filename=path, write_header=epoch == 0)


def images_of(folder):
    costs = read_costs(folder / COST_FILE)
    assert sum(cost.seconds for cost in costs) > 0
    return [cost[:4] for cost in costs]


@pytest.mark.parametrize("use_prefetcher", [True, False])
def test_every_epoch_has_a_row_evaluated_or_not_and_evaluation_has_none(tmp_path, use_prefetcher):
    with record_costs():
        train(tmp_path, range(3), evaluated=(1, 2), use_prefetcher=use_prefetcher)
    assert images_of(tmp_path) == [(0, 32, 48, 10), (1, 32, 48, 10), (2, 32, 48, 10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [COST_FILE, "summary.csv"]


def test_a_resumed_run_keeps_what_was_written_and_replaces_what_it_repeats(tmp_path):
    with record_costs():
        train(tmp_path, range(3))
    first = read_costs(tmp_path / COST_FILE)
    with record_costs():
        train(tmp_path, range(2, 4), batch_size=3)
    costs = read_costs(tmp_path / COST_FILE)
    assert [cost.epoch for cost in costs] == [0, 1, 2, 3]
    assert costs[:2] == first[:2]
    assert [cost.images for cost in costs] == [10, 10, 9, 9]  # a last batch that is not full is left out


def test_sizes_that_timm_mixes_within_an_epoch_have_a_row_each(tmp_path):
    schedule = {"batch_choice_schedule": "progressive", "batch_schedule_epochs": 4}
    with record_costs():
        train(tmp_path, range(4), input_size_choices=(32, 64), batch_size_choices=(2, 2), **schedule)
    rows = images_of(tmp_path)
    assert {row[1:3] for row in rows} == {(32, 32), (64, 64)}
    assert [sum(row[3] for row in rows if row[0] == epoch) for epoch in range(4)] == [10] * 4


def test_a_progressive_run_has_both_records_and_they_agree(tmp_path):
    with record_costs(), make_progressive(parse("sizes=32,64").plan(None)):
        train(tmp_path, range(4), input_size=(3, 64, 64), batch_schedule_epochs=4)
    stages = [(int(row["epoch"]), int(row["size"]), int(row["images"])) for _, row in csv_rows(tmp_path / STAGES_FILE)]
    assert [(epoch, height, images) for epoch, height, _, images in images_of(tmp_path)] == stages
    assert [size for _, size, _ in stages] == [32, 32, 64, 64]


def test_a_program_whose_loader_is_not_timms_has_no_record(tmp_path):
    with record_costs():
        timm.utils.update_summary(0, {"loss": 1.0}, None, filename=str(tmp_path / "summary.csv"), write_header=True)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]


def test_a_run_without_a_record_has_no_costs(tmp_path):
    (tmp_path / SUMMARY_FILE).write_text("epoch,train_loss\n0,1.0\n")
    (tmp_path / ARGS_FILE).write_text("model: x\n")
    assert read_run(tmp_path).costs == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,32,32,10,oops", "seconds: 'oops' is not a number"),
        ("0,32,32,many,1.5", "images: 'many' is not a whole number"),
        ("0,32,32", "images: None is not a whole number"),
        ("0,0,32,10,1.5", "0,0,32,10,1.5 is not what an epoch cost"),
        ("0,32,32,10,nan", "0,32,32,10,nan is not what an epoch cost"),
        ("0,32,32,10,-1", "0,32,32,10,-1 is not what an epoch cost"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, row, message):
    (tmp_path / COST_FILE).write_text(f"epoch,height,width,images,seconds\n{row}\n")
    with pytest.raises(EffNetExtError, match=f"{COST_FILE} line 2: {message}"):
        read_costs(tmp_path / COST_FILE)
