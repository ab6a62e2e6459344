"""The fine-tuning benchmark holds out each photograph once, trains by the recipes, and writes what came out."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from benchmarks import finetuning
from benchmarks.finetuning import ARMS, PARTS, main, measure, settings
from benchmarks.measure import Spread
from benchmarks.solar_cells import CLASSES, unpack
from tests.train.options import OPTIONS

KINDS = [(defect, silicon) for defect in (0.0, 1 / 3, 2 / 3, 1.0) for silicon in ("mono", "poly")]
MODEL = "hucorz_efficientnet_lite0"

# Writes what train.py writes; its losses are of no interest here.
TRAIN = """
import argparse
from pathlib import Path
parser = argparse.ArgumentParser()
for option in ("-c", "--output", "--experiment"):
    parser.add_argument(option, type=Path)
given, _ = parser.parse_known_args()
run = given.output / given.experiment
run.mkdir()
(run / "args.yaml").write_text(given.c.read_text())
(run / "summary.csv").write_text("epoch,train_loss,eval_top1\\n0,1.0,70.0\\n1,0.5,80.0\\n")
print("--result")
"""


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package of ten cells of each kind, as elpv-dataset has them; the names of the files."""
    data = tmp_path / "site" / "elpv_dataset" / "data"
    (data / "images").mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    names = [f"cell{index:04}.png" for index in range(10 * len(KINDS))]
    for name in names:
        (data / "images" / name).write_text(name)
    rows = [f"images/{name}  {KINDS[i % len(KINDS)][0]}  {KINDS[i % len(KINDS)][1]}" for i, name in enumerate(names)]
    (data / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return names


def arguments(output: Path, **own: object) -> argparse.Namespace:
    return argparse.Namespace(**{"model": MODEL, "img_size": 32, "rounds": 1, "folds": 2, "output": output, **own})


def test_every_cell_is_held_out_once_and_read_where_it_lies(cells: list[str], tmp_path: Path) -> None:
    held_out: Counter[str] = Counter()
    for fold in range(PARTS):
        target = unpack(tmp_path / str(fold), fold, PARTS)
        train, validation = ({p.name: p for p in (target / s).glob("*/*")} for s in ("train", "validation"))
        assert sorted([*train, *validation]) == cells
        assert all(path.read_text() == name for name, path in (train | validation).items())
        assert {p.parent.name for p in train.values()} == set(CLASSES)
        assert unpack(target, fold, PARTS) == target  # a second time there is nothing to do
        held_out.update(list(validation))
    assert held_out == Counter(cells)


def test_every_fold_has_as_much_of_each_kind(cells: list[str], tmp_path: Path) -> None:
    for fold in range(PARTS):
        names = [path.name for path in (unpack(tmp_path / str(fold), fold, PARTS) / "validation").glob("*/*")]
        assert set(Counter(cells.index(name) % len(KINDS) for name in names).values()) <= {2, 3}


def test_a_defect_more_likely_than_not_is_one(cells: list[str], tmp_path: Path) -> None:
    defective = (unpack(tmp_path / "images", 0, PARTS) / "train" / "defective").glob("*")
    assert {KINDS[cells.index(path.name) % len(KINDS)][0] for path in defective} == {2 / 3, 1.0}


def test_without_the_package_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.solar_cells.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install elpv-dataset"):
        unpack(tmp_path, 0, PARTS)


def test_an_arm_is_its_recipe_but_for_what_the_arm_is(tmp_path: Path) -> None:
    found = {name: settings(arguments(tmp_path), arm) for name, arm in ARMS.items()}
    assert all(given.keys() <= OPTIONS for given in found.values())
    assert {name: (given["pretrained"], given["model_kwargs"]) for name, given in found.items()} == {
        "linear probe": (True, {"linear_probe": True}),
        "partial": (True, {"freeze": "stem,blocks.0-3"}),
        "full": (True, {}),
        "from scratch": (False, {}),
    }
    assert {given["epochs"] for given in found.values()} == {5}


def test_what_is_frozen_and_what_is_lean_keeps_less(tmp_path: Path) -> None:
    found = measure(arguments(tmp_path))
    kept = {key: mib for key, (_, mib, _) in found.items()}
    trained = {name: found[name, False][2] for name in ARMS}
    assert trained["linear probe"] == 2 * 1280 + 2
    assert trained["linear probe"] < trained["partial"] < trained["full"] == trained["from scratch"]
    assert kept["linear probe", False] < 0.01 < kept["partial", False] < kept["full", False]
    for name in ("partial", "full"):
        assert kept[name, True] < 0.5 * kept[name, False]
    assert all(spread.rounds == 1 and spread.min > 0 for spread, *_ in found.values())


def test_the_command_trains_each_arm_once_and_writes_what_it_prints(
    cells: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    script, output = tmp_path / "train.py", tmp_path / "out"
    script.write_text(TRAIN)

    monkeypatch.setattr(finetuning, "ARMS", {"full": ARMS["full"]})
    measured = {("full", lean): (Spread(500.0 - 100 * lean, 0.0, 1), 2.0 - lean, 7) for lean in (False, True)}
    monkeypatch.setattr(finetuning, "measure", lambda args: measured)
    command = ["--train-py", str(script), "--model", MODEL, "--img-size", "32", "--folds", "2", str(output)]
    assert main(command) == 0
    written = json.loads((output / "finetuning.json").read_text())["arms"]["full"]
    # Of 80 cells 56 (24 held out: 3 of 10 of each kind) make one batch of 32 an epoch, the rest is dropped.
    assert written == {
        "top1": [[70.0, 80.0]] * 2,
        "trained": 7,
        "plain": {"seconds": 1.0, "mib": 2.0},
        "lean": {"seconds": 0.8, "mib": 1.0},
    }
    assert "80.0 ± 0.0" in capsys.readouterr().out
    assert (output / "finetuning.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((output / "full-0.yaml").read_text()) == settings(arguments(output), ARMS["full"])
    script.write_text("raise SystemExit('trained again')")
    assert main(command) == 0


def test_without_train_py_it_is_said_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TIMM_TRAIN_PY", raising=False)
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "--train-py" in capsys.readouterr().err
