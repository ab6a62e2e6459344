"""Class names are written where the run is, and classes that do not fit each other stop it before its first step."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import timm
import timm.data
import timm.models
import timm.task
import timm.utils
import torch

from tests.small_models import SMALL
from tests.train.folders import write_images
from tests.train.launching import MODEL_KWARGS, TRAIN_PY, launch, needs_train_py
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub_format import CLASS_NAMES_FILE
from timm_effnet_ext.train.launcher.classes import watch_classes

NAMES = ("1", "2", "10", "Zebra", "apple", "a  b", "Äpfel mit Öl", "日本")


@pytest.fixture(scope="module")
def model():
    """Return a function that makes a small model."""
    return partial(timm.create_model, "hucorz_efficientnet_b0", **SMALL)


def folder(root, train=NAMES, validation=None):
    write_images(root / "train", train)
    write_images(root / "validation", train if validation is None else validation)
    return root


def prepare(root, output, *, num_classes=8, class_map="", resume=None):
    """Do what train.py does before its first step; return the names that were written, or None."""
    with watch_classes():
        timm.create_model("hucorz_efficientnet_b0", num_classes=num_classes, checkpoint_path="", **SMALL)
        for split in ("train", "validation"):
            timm.data.create_dataset(
                "", root=root, split=split, is_training=split == "train", class_map=class_map, input_key=None
            )
        if resume:
            timm.task.resume_task_checkpoint(timm.task.ClassificationTask(torch.nn.Linear(1, 1)), str(resume))
        path = Path(timm.utils.get_outdir(str(output), "run")) / CLASS_NAMES_FILE
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else None


def test_names_are_written_in_the_order_of_their_numbers(tmp_path):
    written = prepare(folder(tmp_path / "images"), tmp_path)
    assert written == ["1", "2", "10", "a  b", "apple", "Zebra", "Äpfel mit Öl", "日本"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CLASS_NAMES_FILE]


def test_what_is_written_is_a_class_map_of_the_same_numbers(tmp_path):
    images = folder(tmp_path / "images")
    prepare(images, tmp_path)
    read = partial(timm.data.create_dataset, "", images, split="train")
    names = str(tmp_path / "run" / CLASS_NAMES_FILE)
    assert read(class_map=names).reader.class_to_idx == read().reader.class_to_idx
    assert prepare(images, tmp_path / "again", class_map=names) == prepare(images, tmp_path)


def test_datasets_without_names_train_and_say_so(tmp_path, caplog):
    images = folder(tmp_path / "images", ["a ", "b"])
    assert prepare(images, tmp_path, num_classes=2) is None
    assert caplog.messages == [
        f"class names are unknown, and {CLASS_NAMES_FILE} is not written: a line of text cannot hold 'a '"
    ]


@pytest.mark.parametrize("other", [("a", "c"), ("a",), ("a", "b", "c"), ("b ", "c ")])
def test_a_folder_of_a_run_with_other_classes_is_refused(other, tmp_path):
    prepare(folder(tmp_path / "one", ("a", "b")), tmp_path, num_classes=2)
    pattern = rf"{CLASS_NAMES_FILE}: of a run with other classes .*choose another --resume, --output or --experiment"
    with pytest.raises(EffNetExtError, match=pattern):
        prepare(folder(tmp_path / "other", other), tmp_path, num_classes=len(other))
    assert (tmp_path / "run" / CLASS_NAMES_FILE).read_text() == "a\nb\n"


def test_a_run_resumes_with_its_own_classes_alone(tmp_path):
    images = folder(tmp_path / "images", ("a", "b"))
    prepare(images, tmp_path / "old", num_classes=2)
    last = tmp_path / "old" / "run" / "last.pth.tar"
    torch.save({"state_dict": torch.nn.Linear(1, 1).state_dict(), "epoch": 3}, last)
    assert prepare(images, tmp_path / "new", num_classes=2, resume=last) == ["a", "b"]
    with pytest.raises(EffNetExtError, match="class 0 is 'a' there, '0' now"):
        prepare(folder(tmp_path / "more", ("0", "a", "b")), tmp_path / "newer", num_classes=3, resume=last)
    assert not (tmp_path / "newer").exists()


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (
            ("b", "c"),
            "only .*train has 'a' (1 of its 3); 2 have other numbers ('b' is 1 in .*train, 0 in .*validation)",
        ),
        (("a", "b"), "only .*train has 'c' (1 of its 3)"),
        (("a", "b", "c", "d"), "only .*validation has 'd' (1 of its 4)"),
        (("a", "b", "c", ""), "only .*validation has '' (images in no class folder) (1 of its 4); 3 have other"),
    ],
)
def test_classes_of_training_and_validation_must_be_the_same_unless_a_map_numbers_them(validation, message, tmp_path):
    images = folder(tmp_path / "images", ("a", "b", "c"), validation)
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(EffNetExtError, match=f"training and validation differ.*: {pattern}.*--class-map FILE"):
        prepare(images, tmp_path, num_classes=3)
    assert not (tmp_path / "run").exists()
    (tmp_path / "map.txt").write_text("c\nb\na\n")
    assert prepare(images, tmp_path, num_classes=3, class_map=str(tmp_path / "map.txt")) == ["c", "b", "a"]


def test_more_classes_than_outputs_are_refused_and_fewer_are_told(tmp_path, caplog):
    images = folder(tmp_path / "images", ("a", "b", "c"))
    write_images(images / "train", (".old",))
    message = r"train: 4 classes \('.old', 'a', 'b', 'c'\), but the model has 3 outputs. Pass --num-classes 4"
    with pytest.raises(EffNetExtError, match=message):
        prepare(images, tmp_path, num_classes=3)
    shutil.rmtree(images / "train" / ".old")
    assert prepare(images, tmp_path, num_classes=5) == ["a", "b", "c"]
    (note,) = caplog.messages
    assert note.endswith(
        "3 classes ('a', 'b', 'c'), but the model has 5 outputs, the last 2 for no class. "
        "--num-classes 3 leaves them out"
    )


def test_validation_on_the_images_of_training_is_told(tmp_path, caplog):
    write_images(tmp_path / "images" / "train", ("a", "b"))
    assert prepare(tmp_path / "images", tmp_path, num_classes=2) == ["a", "b"]
    (note,) = caplog.messages
    assert note == f"{tmp_path / 'images'}: no folder for validation, so timm takes all of it, images of training too"


@pytest.fixture
def trained(tmp_path, model):
    """A checkpoint of four classes, with their names beside it."""
    path = tmp_path / "run" / "model_best.pth.tar"
    path.parent.mkdir()
    torch.save({"state_dict": model(num_classes=4).state_dict()}, path)
    (path.parent / CLASS_NAMES_FILE).write_text("a\nb\nc\nd\n")
    return path


def judge(checkpoint, root, class_map="", outputs=4, way="load"):
    """Do what validate.py does before it has an accuracy; return the model."""
    with watch_classes():
        if way == "load":
            model = timm.create_model("hucorz_efficientnet_b0", pretrained=False, num_classes=4, **SMALL)
            timm.models.load_checkpoint(model, str(checkpoint), False)
        else:
            path = str(checkpoint)
            model = timm.models.create_model("hucorz_efficientnet_b0", num_classes=4, checkpoint_path=path, **SMALL)
        timm.data.create_dataset(root=root, name="", split="validation", class_map=class_map)
        timm.utils.accuracy(torch.zeros(1, outputs), torch.zeros(1, dtype=torch.long), topk=(1,))
    return model


@pytest.mark.parametrize("way", ["load", "create"])
@pytest.mark.parametrize("names", [("a", "b", "c"), ("b", "c", "d"), ("a", "b", "c", "d", "e"), ("A", "b", "c", "d")])
def test_accuracy_is_not_told_of_other_classes_than_the_models(names, way, trained, tmp_path, caplog):
    write_images(tmp_path / "images", names)
    with pytest.raises(EffNetExtError, match=r"model and images differ: only .* has '.'.*with --class-map FILE"):
        judge(trained, tmp_path / "images", way=way)
    assert caplog.messages[0].startswith("classes of model and images differ")


def test_accuracy_is_told_of_the_same_classes_or_those_of_a_class_map(trained, tmp_path, caplog):
    write_images(tmp_path / "images", "abcd")
    judge(trained, tmp_path / "images")
    write_images(tmp_path / "some", "bd")
    judge(trained, tmp_path / "some", class_map=str(trained.with_name(CLASS_NAMES_FILE)))
    assert caplog.messages == []
    (tmp_path / "wrong.txt").write_text("b\nd\n")
    with pytest.raises(EffNetExtError, match="2 have other numbers"):
        judge(trained, tmp_path / "some", class_map=str(tmp_path / "wrong.txt"))


def test_a_program_may_choose_among_the_outputs(trained, tmp_path):
    write_images(tmp_path / "images", "bd")
    judge(trained, tmp_path / "images", outputs=2)  # validate.py's --valid-labels


@pytest.mark.parametrize("names", ["wxyz", "wx"])
def test_where_names_have_nothing_in_common_the_order_is_taken_and_that_is_told(names, trained, tmp_path, caplog):
    write_images(tmp_path / "images", names)
    judge(trained, tmp_path / "images")
    trained.with_name(CLASS_NAMES_FILE).unlink()
    judge(trained, tmp_path / "images")
    taken = f"images: its {len(names)} classes are taken for outputs 0 to {len(names) - 1}, which"
    assert [taken in message for message in caplog.messages] == [True, True]
    assert [message.split(" which ")[1] for message in caplog.messages] == ["all have other names", "are not named"]


def test_no_model_has_fewer_outputs_than_it_is_judged_by(trained, tmp_path):
    write_images(tmp_path / "images", "vwxyz")
    with pytest.raises(EffNetExtError, match=r"images: 5 classes \('v', .*'z'\), but the model has 4"):
        judge(trained, tmp_path / "images")


@pytest.mark.parametrize("kind", [str, Path])  # timm calls their class "" and "."
def test_images_without_class_folders_have_no_accuracy(kind, trained, tmp_path, caplog):
    write_images(tmp_path / "images", [""])
    with pytest.raises(EffNetExtError, match="images without class folders"):
        judge(trained, kind(tmp_path / "images"))
    assert caplog.messages == []  # what inference.py gets is in order


@pytest.mark.parametrize("way", ["load", "create"])
def test_a_model_knows_the_names_of_its_run(way, trained, tmp_path):
    write_images(tmp_path / "images", "abcd")
    cfg = judge(trained, tmp_path / "images", way=way).pretrained_cfg
    labels = timm.data.CustomDatasetInfo(cfg["label_names"], cfg["label_descriptions"])  # as inference.py
    assert [labels.index_to_description(number) for number in range(4)] == list("abcd")


def test_pretrained_models_are_compared_by_their_own_names(tmp_path, model):
    torch.save(model(num_classes=2).state_dict(), tmp_path / "model.pth")
    overlay = {"file": str(tmp_path / "model.pth"), "num_classes": 2, "label_names": ["b", "a"]}
    write_images(tmp_path / "images", "ab")
    with watch_classes():
        timm.create_model(
            "hucorz_efficientnet_b0", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=2, **SMALL
        )
        timm.data.create_dataset("", tmp_path / "images")
        with pytest.raises(EffNetExtError, match=r"2 have other numbers .'b' is 0 in the model, 1 in "):
            timm.utils.accuracy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


def test_names_are_timms_again_afterwards():
    owners = [
        (timm.utils, "accuracy"),
        (timm.utils, "get_outdir"),
        (timm.data, "create_dataset"),
        (timm, "create_model"),
    ]
    before = [getattr(owner, name) for owner, name in owners]
    with pytest.raises(KeyError), watch_classes():
        raise KeyError
    assert [getattr(owner, name) for owner, name in owners] == before


def test_a_launched_program_is_stopped_in_one_line(tmp_path):
    images = folder(tmp_path / "images", ("a", "b"), ("b",))
    path = tmp_path / "program.py"
    path.write_text(
        "from timm.data import create_dataset\n"
        f"create_dataset('', {str(images)!r}, 'train', is_training=True)\n"
        f"create_dataset('', {str(images)!r}, 'validation')\n"
        "print('trained')\n"
    )
    done = launch(path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: classes of training and validation differ, and timm numbers each for itself: only ")


def train_args(images, output, *args):
    return [
        *("--data-dir", images, "--num-classes", len(NAMES), "--model", "hucorz_efficientnet_b0", "--img-size", 32),
        *(*MODEL_KWARGS, "--device", "cpu", "-b", 4, "--workers", 0),
        *("--epochs", 2, "--warmup-epochs", 0, "--lr", 0.01, "--output", output, *args),
    ]


@needs_train_py
@pytest.mark.parametrize("launcher", [(), ("--progressive", "sizes=32,48")])
def test_real_train_py_leaves_the_names_in_the_folder_that_it_names_itself(launcher, tmp_path):
    images = folder(tmp_path / "images")
    done = launch(*launcher, TRAIN_PY, *train_args(images, tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    order = timm.data.create_dataset("", images, split="train").reader.class_to_idx
    assert (run / CLASS_NAMES_FILE).read_text(encoding="utf-8").splitlines() == sorted(order, key=order.get)
    assert {"args.yaml", "summary.csv", "model_best.pth.tar"} <= {path.name for path in run.iterdir()}


@needs_train_py
def test_real_train_py_stops_before_its_first_step_where_validation_lacks_a_class(tmp_path):
    images = folder(tmp_path / "images", NAMES, NAMES[1:])
    done = launch(TRAIN_PY, *train_args(images, tmp_path / "runs"))
    assert done.returncode == 1
    assert "train has '1' (1 of its 8)" in done.stderr.splitlines()[-1]
    assert "Train: 0" not in done.stderr
    assert not (tmp_path / "runs").exists()


@needs_train_py
def test_real_programs_of_timm_go_by_the_names_beside_a_checkpoint(tmp_path):
    images = folder(tmp_path / "images")
    assert launch(TRAIN_PY, *train_args(images, tmp_path, "--experiment", "run")).returncode == 0

    def program(name, data, *args):
        script = Path(TRAIN_PY).with_name(name)
        if not script.exists():
            pytest.skip(f"{script} is not there: it lies beside train.py in timm's repository")
        model = ("--model", "hucorz_efficientnet_b0", *MODEL_KWARGS)
        checkpoint = ("--checkpoint", tmp_path / "run" / "last.pth.tar", "--num-classes", len(NAMES))
        machine = ("--img-size", 32, "--device", "cpu", "--workers", 0, "-b", 4)
        return launch(script, *model, *checkpoint, *machine, "--data-dir", data, *args, cwd=tmp_path)

    assert program("validate.py", images).returncode == 0
    write_images(tmp_path / "some" / "validation", NAMES[1:])
    refused = program("validate.py", tmp_path / "some")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: classes of model and images differ: only ")
    assert program("validate.py", tmp_path / "some", "--class-map", tmp_path / "run" / CLASS_NAMES_FILE).returncode == 0

    pytest.importorskip("pandas", reason="inference.py needs pandas")
    write_images(tmp_path / "photos", [""])
    done = program("inference.py", tmp_path / "photos")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.partition("--result\n")[2])["0.png"]["label"] in NAMES
