"""Runs are read as train.py leaves them, damaged ones refused, and the picture shows what it should."""

import sys

import pytest
import yaml

from timm_effnet_ext.__main__ import main
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.axes import count_flops
from timm_effnet_ext.train.plot import draw
from timm_effnet_ext.train.runs import COST_FILE, STAGES_FILE, Span, read_run

HEADER = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr"
ROWS = ("0,2.5,2.4,10.0,50.0,0.1", "1,2.0,1.9,40.0,80.0,0.05", "2,1.5,1.6,35.0,75.0,0.01")


def write_run(folder, *rows, header=HEADER, sizes=()):
    """Write the files of a run; `sizes` are those of its epochs, for a progressive one."""
    folder.mkdir(exist_ok=True)
    (folder / "summary.csv").write_text("\n".join([header, *(rows or ROWS), ""]), errors="surrogateescape")
    (folder / "args.yaml").write_text(yaml.safe_dump({"model": "hucorz_efficientnetv2_s"}))
    if sizes:
        lines = ["epoch,size", *(f"{epoch},{size}" for epoch, size in enumerate(sizes))]
        (folder / STAGES_FILE).write_text("\n".join(lines))
    return folder


def write_costs(folder, *rows):
    """Write what the epochs of a run cost, as the launcher does."""
    (folder / COST_FILE).write_text("\n".join(["epoch,height,width,images,seconds", *rows, ""]))
    return folder


def titles(figure):
    return [ax.get_title("left") for ax in figure.axes]


def test_run_is_read_with_its_metrics_and_best_epoch(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    assert (run.name, run.model, run.epochs) == ("a", "hucorz_efficientnetv2_s", (0, 1, 2))
    assert run.metrics["train_loss"] == (2.5, 2.0, 1.5)
    assert run.best == 1
    assert run.spans == ()


def test_stages_are_read_as_spans_of_epochs(tmp_path):
    run = read_run(write_run(tmp_path / "a", sizes=(32, 32, 64)))
    assert run.spans == (Span(0, 1, 32), Span(2, 2, 64))


def test_resumed_run_counts_what_was_written_last(tmp_path):
    # train.py repeats the header and the epoch when it resumes into the same folder
    run = read_run(write_run(tmp_path / "a", *ROWS[:2], HEADER, "1,1.8,1.7,45.0,85.0,0.05", ROWS[2]))
    assert run.epochs == (0, 1, 2)
    assert run.metrics["eval_top1"] == (10.0, 45.0, 35.0)


def test_diverged_run_is_still_read(tmp_path):
    assert len(read_run(write_run(tmp_path / "a", *ROWS, "3,nan,nan,10.0,50.0,0.01")).epochs) == 4


def test_picture_has_a_line_a_run_a_ring_at_the_best_and_a_legend(tmp_path):
    runs = [read_run(write_run(tmp_path / name)) for name in ("a", "b")]
    figure = draw(runs)
    assert titles(figure) == ["Training loss", "Evaluation loss", "Top-1 accuracy (%)", "Top-5 accuracy (%)"]
    assert [len(ax.lines) for ax in figure.axes] == [2, 4, 4, 4]
    ring = figure.axes[2].lines[1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (1, 40.0)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a: best 40.0 % at epoch 1", "b: best 40.0 % at epoch 1"]


def test_picture_shades_the_stages_and_names_their_sizes(tmp_path):
    figure = draw([read_run(write_run(tmp_path / "a", sizes=(32, 32, 64)))])
    for ax in figure.axes:
        assert [text.get_text() for text in ax.texts] == ["32 px", "64 px"]
        assert [(patch.get_x(), patch.get_width()) for patch in ax.patches] == [(-0.5, 2.0), (1.5, 1.0)]


def test_stages_are_shaded_where_they_are_those_of_every_progressive_run(tmp_path, caplog):
    folders = [write_run(tmp_path / name, sizes=sizes) for name, sizes in (("a", (32, 32, 64)), ("b", ()))]
    assert draw([read_run(folder) for folder in folders]).axes[0].texts
    folders.append(write_run(tmp_path / "c", sizes=(32, 64, 64)))
    assert not draw([read_run(folder) for folder in folders]).axes[0].texts
    assert caplog.messages == ["the runs differ in their stages, so none are shaded"]


def test_picture_over_seconds_counts_every_epoch_and_shades_none(tmp_path):
    run = write_run(tmp_path / "a", ROWS[0], ROWS[2], sizes=(32, 32, 64))  # epoch 1 was not evaluated
    figure = draw([read_run(write_costs(run, "0,32,32,9,1.5", "1,32,32,9,1", "2,32,32,3,1", "2,64,64,6,4"))], "seconds")
    loss = figure.axes[0]
    assert list(loss.lines[0].get_xdata()) == [1.5, 7.5]
    assert figure.axes[-1].get_xlabel() == "seconds of training"
    assert not loss.texts
    assert not loss.patches


def test_picture_over_flops_counts_every_image_at_its_size(tmp_path):
    run = read_run(write_costs(write_run(tmp_path / "a"), "0,32,32,9,1", "1,32,32,9,1", "2,32,32,3,1", "2,64,64,6,1"))
    small, large = count_flops({"model": run.model}, [(32, 32), (64, 64)]).values()
    figure = draw([run], "flops")
    assert list(figure.axes[0].lines[0].get_xdata()) == [9 * small, 18 * small, 21 * small + 6 * large]
    assert figure.axes[-1].get_xlabel() == "FLOPs of training"


@pytest.mark.parametrize("x", ["seconds", "flops"])
@pytest.mark.parametrize(("rows", "epoch"), [(None, 0), (["1,32,32,9,1", "2,32,32,9,1"], 0), (["0,32,32,9,1"], 1)])
def test_what_an_epoch_took_is_refused_in_one_line_where_nobody_wrote_it(tmp_path, capsys, x, rows, epoch):
    run = write_run(tmp_path / "a")
    if rows is not None:
        write_costs(run, *rows)
    assert main(["plot", str(run), "--x", x]) == 1
    assert capsys.readouterr().err == (
        f"error: a: what epoch {epoch} took is not known. cost.csv says it where the launcher runs train.py from the "
        "first epoch on (python -m timm_effnet_ext run). Draw over epochs instead\n"
    )
    assert not (run / "curves.png").exists()


def test_epochs_beyond_any_record_are_refused_at_once(tmp_path):
    run = write_costs(write_run(tmp_path / "a", *ROWS, f"{10**15},1,1,1,1,1"), "0,32,32,9,1")
    with pytest.raises(EffNetExtError, match="what epoch 1 took is not known"):
        draw([read_run(run)], "seconds")


def test_flops_of_a_model_that_timm_has_not_are_refused_in_one_line(tmp_path, capsys):
    run = write_costs(write_run(tmp_path / "a"), *(f"{epoch},32,32,9,1" for epoch in range(3)))
    (run / "args.yaml").write_text(yaml.safe_dump({"model": "hucorz_nothing"}))
    assert main(["plot", str(run), "--x", "flops"]) == 1
    assert capsys.readouterr().err == (
        "error: FLOPs of hucorz_nothing cannot be counted: Unknown model (hucorz_nothing)\n"
    )


def test_picture_shows_the_learning_rate_where_top5_says_nothing(tmp_path):
    rows = [row.replace(",50.0,", ",100.0,").replace(",80.0,", ",100.0,").replace(",75.0,", ",100.0,") for row in ROWS]
    assert titles(draw([read_run(write_run(tmp_path / "a", *rows))]))[-1] == "Learning rate"


def test_picture_of_a_run_without_evaluation(tmp_path):
    run = read_run(write_run(tmp_path / "a", "0,2.5,0.1", "1,2.0,0.05", header="epoch,train_loss,lr"))
    assert titles(draw([run])) == ["Training loss", "Learning rate"]
    assert run.best is None


def test_a_run_without_any_curve_is_refused(tmp_path):
    run = read_run(write_run(tmp_path / "a", "0,2.5", header="epoch,other"))
    with pytest.raises(EffNetExtError, match=r"^a: none of train_loss, eval_loss, .* is in summary\.csv$"):
        draw([run])


def test_losses_over_a_wide_range_are_logarithmic(tmp_path):
    figure = draw([read_run(write_run(tmp_path / "a", "0,2.5,7000.0,10.0,50.0,0.1", *ROWS[1:]))])
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "log", "linear", "linear"]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_command_writes_the_picture_in_the_format_of_its_name(tmp_path, capsys, suffix, start):
    path = tmp_path / f"curves{suffix}"
    assert main(["plot", str(write_run(tmp_path / "a")), "-o", str(path)]) == 0
    assert path.read_bytes().startswith(start)
    assert capsys.readouterr().out == f"{path}\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", path.name]


def test_command_writes_into_the_run_unless_told_otherwise(tmp_path):
    assert main(["plot", str(write_run(tmp_path / "a"))]) == 0
    assert (tmp_path / "a" / "curves.png").exists()


def test_same_runs_make_the_same_svg(tmp_path):
    run = str(write_run(tmp_path / "a", sizes=(32, 32, 64)))
    for name in ("1.svg", "2.svg"):
        main(["plot", run, "-o", str(tmp_path / name)])
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_folder_of_the_picture_must_be_there(tmp_path, capsys):
    path = tmp_path / "no" / "x.png"
    assert main(["plot", str(write_run(tmp_path / "a")), "-o", str(path)]) == 1
    assert capsys.readouterr().err == f"error: {path}: there is no folder {path.parent}\n"


def test_unknown_format_is_refused_and_nothing_is_left(tmp_path, capsys):
    assert main(["plot", str(write_run(tmp_path / "a")), "-o", str(tmp_path / "x.bmp")]) == 1
    assert "no picture format '.bmp'; there are" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", str(write_run(tmp_path / "a"))]) == 1
    assert "pip install 'timm_effnet_ext[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0,2.5,oops,1,1,1"], "line 2: eval_loss: 'oops' is not a number"),
        (["0,2.5"], "line 2: eval_loss: None is not a number"),
        (["0,2.5,2.4,10.0,50.0,0.1,7"], "line 2: not a row of train.py's summary"),
        (["\udcff\udcfe"], "not CSV"),
        ([HEADER], "no epochs"),
    ],
)
def test_damaged_summary_is_refused(tmp_path, rows, message):
    with pytest.raises(EffNetExtError, match=message):
        read_run(write_run(tmp_path / "a", *rows))


@pytest.mark.parametrize("name", ["summary.csv", "args.yaml"])
def test_missing_file_is_named_in_one_line(tmp_path, capsys, name):
    run = write_run(tmp_path / "a")
    (run / name).unlink()
    assert main(["plot", str(run)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{name}: no such file. Is {run} the output folder" in err


@pytest.mark.parametrize("text", ["[1, 2", "- a", "\x00", "date: 2026-13-01"])
def test_damaged_arguments_are_refused(tmp_path, text):
    run = write_run(tmp_path / "a")
    (run / "args.yaml").write_text(text)
    with pytest.raises(EffNetExtError, match=r"args\.yaml"):
        read_run(run)


def test_damaged_stages_are_refused(tmp_path):
    run = write_run(tmp_path / "a", sizes=("many", 64))
    with pytest.raises(EffNetExtError, match=f"{STAGES_FILE} line 2: size: 'many' is not a whole number"):
        read_run(run)
