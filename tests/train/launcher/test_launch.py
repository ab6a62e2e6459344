"""The launcher runs programs as Python does; with `TIMM_TRAIN_PY` set, timm's unmodified train.py among them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import load_state_dict

from tests.processes import ROOT, python
from tests.small_models import SMALL
from tests.train.launching import MODEL_KWARGS, TRAIN_PY, launch, needs_train_py
from timm_effnet_ext.files.hub_format import CLASS_NAMES_FILE
from timm_effnet_ext.train.runs import COST_FILE, STAGES_FILE, csv_rows, read_costs

SPY = ROOT / "tests/train/spy.py"
SPEC = "sizes=32,40,48,64 randaug=3:9 mixup=0:0.3 dropout=0.1:0.4"
EPOCHS, STEPS = 8, 2  # of the real runs: two epochs a stage, two steps an epoch


@pytest.fixture
def script(tmp_path):
    """A program that says how it was started."""
    path = tmp_path / "folder" / "program.py"
    path.parent.mkdir()
    (path.parent / "neighbour.py").write_text("HERE = True\n")
    path.write_text(
        "import sys, json, logging, neighbour\n"
        "if __name__ == '__main__':\n"
        "    print(json.dumps([sys.argv, __file__, len(logging.root.handlers)]))\n"
        "    sys.exit(int(sys.argv[1]))\n"
    )
    return path


def test_a_script_starts_as_main_with_its_own_arguments_and_exit_code(script):
    done = launch(script, "7", "--progressive", "x", "-m", "-v", "--", "--help")
    argv, file, handlers = json.loads(done.stdout)
    assert argv == [str(script), "7", "--progressive", "x", "-m", "-v", "--", "--help"]
    assert (file, handlers) == (str(script), 0)
    assert done.returncode == 7


def test_a_module_starts_as_main_with_its_own_arguments(script):
    done = launch("-m", "program", "0", "--model", "x", cwd=script.parent)
    argv, *_ = json.loads(done.stdout)
    assert argv == [str(script), "0", "--model", "x"]
    assert done.returncode == 0


def test_a_program_that_fails_shows_its_own_traceback(tmp_path):
    path = tmp_path / "fails.py"
    path.write_text("open('/no/such/file')\n")
    done = launch(path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "FileNotFoundError" in done.stderr


def test_worker_processes_can_be_spawned(tmp_path):
    path = tmp_path / "workers.py"
    path.write_text(
        "import torch\n"
        "class Squares(torch.utils.data.Dataset):\n"
        "    def __getitem__(self, i): return i * i\n"
        "    def __len__(self): return 4\n"
        "if __name__ == '__main__':\n"
        "    loader = torch.utils.data.DataLoader(Squares(), 2, num_workers=1, multiprocessing_context='spawn')\n"
        "    print([batch.tolist() for batch in loader])\n"
    )
    assert launch(path).stdout == "[[0, 1], [4, 9]]\n"


def test_memory_budget_reaches_torch_compile(tmp_path):
    path = tmp_path / "budget.py"
    path.write_text("import torch._functorch.config as c\nprint(c.activation_memory_budget)\n")
    assert launch("--memory-budget", "0.25", path).stdout == "0.25\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "required: PROGRAM"),
        (["--progressive", "autoo", "x.py"], 2, "no preset 'autoo'"),
        (["--memory-budget", "2", "x.py"], 2, "2 is not between 0 and 1"),
        (["nowhere.py"], 1, "error: no script 'nowhere.py'"),
        (["-m", "no.such.module"], 1, "error: no module 'no.such.module'"),
        (["--progressive", "auto", SPY, "--model", "resnet50"], 1, "error: preset 'auto' has no schedule for resnet50"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(args, code, message):
    done = launch(*args)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_trains_nothing_is_told_so(tmp_path):
    path = tmp_path / "idle.py"
    path.write_text("import timm\nprint(timm.list_models('hucorz_efficientnet_b0'))\n")
    done = launch("--progressive", "sizes=32,64", path)
    assert done.stdout == "['hucorz_efficientnet_b0']\n"
    assert done.returncode == 1
    assert "nothing was progressive" in done.stderr


def test_a_teacher_is_made_as_timm_makes_it(tmp_path):
    torch.save(timm.create_model("test_efficientnet", num_classes=4).state_dict(), tmp_path / "teacher.pth")
    path = tmp_path / "distil.py"
    path.write_text(
        "import timm\n"
        "from timm.task import LogitDistillationTask\n"
        f"student = timm.create_model('hucorz_efficientnet_b0', num_classes=4, **{SMALL})\n"
        f"weights = {str(tmp_path / 'teacher.pth')!r}\n"
        "task = LogitDistillationTask(student, 'test_efficientnet', teacher_pretrained_path=weights, verbose=False)\n"
        "print(student.rates, type(task.teacher.model).__name__)\n"
    )
    done = launch("--progressive", "sizes=32,64 dropout=0.1:0.3", path)
    assert done.stdout == "[(32, 0.1), (64, 0.3)] EfficientNet\n", done.stderr


def test_a_timm_beside_the_program_is_told_of_and_not_taken(tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("__version__ = '0.0'\n")
    path = tmp_path / "program.py"
    path.write_text("import timm\nprint(timm.__version__)\n")
    done = launch(path)
    assert done.stdout == f"{timm.__version__}\n"
    assert done.stderr == (
        f"{path}: runs with timm {timm.__version__} of {Path(timm.__file__).parent}, not with the one beside it\n"
    )


def test_model_kwargs_that_the_command_line_replaces_are_named(script, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("model_kwargs: {linear_probe: true, width_mult: 0.5}\n")
    done = launch(script, 0, "-c", config, "--model-kwargs", "width_mult=0.25")
    assert done.stderr == "--model-kwargs replaces all model_kwargs of the -c file, linear_probe among them\n"
    assert launch(script, 0, "-c", config).stderr == ""


def test_options_that_set_what_the_plan_sets_stop_the_run(script):
    done = launch("--progressive", "sizes=32,64 mixup=0:0.2", script, 0, "--mixup", "0.5")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: --progressive and options of the program set the same: "
        "--mixup 0.5 beside mixup=0,0.2 (write mixup=off, or leave --mixup out)\n"
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images, sixteen to train on in four classes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2)):
        for label in "abcd":
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.jpg")
    return root


def train_args(images, output, name, *args, batch=16 // STEPS):
    """Return arguments of train.py for a run of seconds on a CPU."""
    return [
        *("--data-dir", images, "--num-classes", 4, "--model", "hucorz_efficientnetv2_b0", "--img-size", 64),
        *(*MODEL_KWARGS, "--device", "cpu", "-b", batch, "--workers", 0),
        *("--epochs", EPOCHS, "--warmup-epochs", 0, "--lr", 0.01, "--output", output, "--experiment", name, *args),
    ]


def run_real(images, tmp_path, name, *args, kill_at=0, launcher=launch, batch=16 // STEPS):
    """Run train.py under the launcher and the spy; return the steps that it logged, and the process."""
    log = tmp_path / f"{name}.log"
    log.unlink(missing_ok=True)
    program = [SPY, log, kill_at, TRAIN_PY, *train_args(images, tmp_path, name, *args, batch=batch)]
    done = launcher("--progressive", SPEC, *program)
    logs = sorted(tmp_path.glob(f"{name}.log.*"))
    steps = [[json.loads(line) for line in file.read_text().splitlines()] for file in logs]
    for file in logs:
        file.unlink()
    return steps, done


@needs_train_py
def test_real_run_killed_within_a_stage_resumes_step_for_step(images, tmp_path):
    (whole,), done = run_real(images, tmp_path, "whole", "--no-prefetcher")
    assert done.returncode == 0, done.stderr
    assert [step["size"] for step in whole] == [size for size in (32, 40, 48, 64) for _ in range(2 * STEPS)]
    assert [step.get("alpha") for step in whole[:: 2 * STEPS]] == [None, [0.1], [0.2], [0.3]]
    assert [step["randaug"] for step in whole[:: 2 * STEPS]] == [[3], [5], [7], [9]]

    killed_at = 3 * STEPS + 1  # in the second epoch of the second stage
    (killed,), done = run_real(images, tmp_path, "killed", "--no-prefetcher", kill_at=killed_at)
    assert done.returncode == 9
    last = tmp_path / "killed" / "last.pth.tar"
    (resumed,), done = run_real(images, tmp_path, "killed", "--no-prefetcher", "--resume", last)
    assert done.returncode == 0, done.stderr
    assert killed[: 3 * STEPS] + resumed == whole

    columns = ("epoch", "size", "randaug", "mixup", "dropout", "images")
    rows = [[row[name] for name in columns] for _, row in csv_rows(tmp_path / "killed" / STAGES_FILE)]
    assert rows == [[row[name] for name in columns] for _, row in csv_rows(tmp_path / "whole" / STAGES_FILE)]
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(EPOCHS)]
    costs = [[cost[:4] for cost in read_costs(tmp_path / name / COST_FILE)] for name in ("killed", "whole")]
    assert costs[0] == costs[1] == [(int(row[0]), int(row[1]), int(row[1]), int(row[-1])) for row in rows]


@needs_train_py
def test_real_processes_see_the_same_sizes_at_the_same_step(images, tmp_path):
    def torchrun(*args):
        options = ("--standalone", "--nproc-per-node", 2)
        return python("-m", "torch.distributed.run", *options, "-m", "timm_effnet_ext", "run", *args)

    steps, done = run_real(images, tmp_path, "two", launcher=torchrun, batch=4)
    assert done.returncode == 0, done.stderr
    first, second = ([(step["size"], step["batch"], step["dropout"]) for step in rank] for rank in steps)
    assert first == second
    assert [size for size, *_ in first] == [size for size in (32, 40, 48, 64) for _ in range(2 * STEPS)]
    assert done.stderr.count("stage    epochs") == 1
    assert (tmp_path / "two" / CLASS_NAMES_FILE).read_text() == "a\nb\nc\nd\n"


@needs_train_py
def test_real_run_refuses_what_the_plan_does_not_fit_before_any_step(images, tmp_path):
    _, done = run_real(images, tmp_path, "refused", "--aa", "original")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --aa original has no magnitude")
    assert not (tmp_path / "refused").exists()


@needs_train_py
def test_real_train_py_learns_our_models_from_device_modules(images, tmp_path):
    script = shutil.copy(TRAIN_PY, tmp_path)  # away from a timm that may lie beside it, which Python would take
    done = python(script, "--device-modules", "timm_effnet_ext", *train_args(images, tmp_path, "plain", "--epochs", 1))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plain" / "summary.csv").exists()


@needs_train_py
def test_real_linear_probe_in_two_processes_resumes_and_moves_the_classifier_alone(images, tmp_path):
    def epochs(count, *args):
        probe = ("--epochs", count, *MODEL_KWARGS, "linear_probe=True")
        arguments = train_args(images, tmp_path, f"probe-{count}", *probe, "--model-ema", *args, batch=4)
        options = ("--standalone", "--nproc-per-node", 2, "-m", "timm_effnet_ext", "run")
        done = python("-m", "torch.distributed.run", *options, SPY, tmp_path / "log", 0, TRAIN_PY, *arguments)
        assert done.returncode == 0, done.stderr
        return tmp_path / f"probe-{count}" / "last.pth.tar"

    first = epochs(1)
    before, after = (load_state_dict(path, use_ema=False) for path in (first, epochs(2, "--resume", first)))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
