"""`convert` and `inspect` as they are typed: what is on stdout, on stderr, and in the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.convert._sources import DATA, tiny_bundle, tiny_variables, with_ema
from tests.processes import ROOT, imported_by, python
from timm_effnet_ext.__main__ import main

Capture = pytest.CaptureFixture[str]


def test_convert_prints_what_it_did(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    arguments = ["convert", str(DATA / "tpu_lite0"), "-o", str(out)]
    assert main([*arguments, "--reference", str(DATA / "tpu_lite0" / "reference_raw.npz")]) == 0
    printed = capsys.readouterr()
    facts = dict(line.split(None, 1) for line in printed.out.splitlines())
    assert facts["found"].startswith("all 112 names of dialect 'tf1' under 'efficientnet-lite0/'")
    assert facts["weights"].startswith("raw, 112 variables")
    assert "allowed 1e-04" in facts["reference"]
    assert facts["wrote"] == f"{out}: hucorz_efficientnet_lite0, verified"
    assert printed.err.splitlines() == ["writing …", "verifying …"]


def test_json_is_the_record(tmp_path: Path, capsys: Capture) -> None:
    assert (
        main(["convert", str(tiny_bundle(tmp_path)), "-o", str(tmp_path / "out"), "--no-verify", "--json", "--quiet"])
        == 0
    )
    printed = capsys.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert {key: report[key] for key in record} == record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none", "-o", "{tmp}/out"], "none: no such file, folder or checkpoint prefix"),
        (["{tmp}/text", "-o", "{tmp}/out"], "text: not a checkpoint that is known"),
        (["{data}/tpu_b0", "-o", "{tmp}/out", "--model", "b7", "--no-verify"], "is not b7: it fits efficientnet_b0"),
        (["{data}/tpu_b0", "-o", "{tmp}/out", "--label-names", "{tmp}/none"], "No such file or directory"),
        (["{data}/tpu_b0", "-o", "{tmp}/out", "--label-names", "{tmp}/text"], "1 label names for 5 classes"),
        (["{data}/tpu_b0", "-o", "{tmp}/out", "--reference", "{tmp}/none.npz"], "No such file or directory"),
        (["{data}/tpu_b0", "-o", "{tmp}/out", "--images", "{tmp}/none"], "no such folder of photos"),
        (["{data}/tpu_b0", "-o", "{tmp}/new/out", "--reference", "{tmp}/none.npz"], "No such file or directory"),
        (["{data}/tpu_b0", "-o", "{tmp}/text", "--no-verify"], "text: is no folder"),
        (["{data}/tpu_b0", "-o", "{tmp}", "--no-verify", "--overwrite"], "holds text, which no conversion wrote"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "text").write_text("hello")
    assert main(["convert", "--quiet", *(word.format(tmp=tmp_path, data=DATA) for word in arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_folder_of_training_names_its_files(tmp_path: Path, capsys: Capture) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.pth.tar")
    (tmp_path / "summary.csv").write_text("epoch\n")
    assert main(["convert", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "a folder with weights in it. Name the file: last.pth.tar\n" in capsys.readouterr().err


def test_inspect_says_what_a_file_is(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tiny_bundle(tmp_path, with_ema(tiny_variables())))]) == 0
    printed = capsys.readouterr().out
    for part in (
        "efficientnetv2_b0 x0.04 x0.2",
        "tf1 under 'efficientnetv2-b0/'",
        "yes, of 113 variables",
        "step             7",
    ):
        assert part in printed, part


def test_inspect_lists_every_tensor(tmp_path: Path, capsys: Capture) -> None:
    values = with_ema(tiny_variables())
    source = tiny_bundle(tmp_path, values)
    assert main(["inspect", str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["readings"][0]["num_classes"] == 5
    assert sum(len(found[kind]) for kind in ("variables", "ema", "slots", "counters")) == len(values)
    assert found["variables"]["efficientnetv2-b0/stem/conv2d/kernel"] == ["float32", [3, 3, 3, 8]]
    assert main(["inspect", str(source), "--tensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("EMA" in line for line in lines) >= 113
    assert any("stem/conv2d/kernel" in line and "3 × 3 × 3 × 8" in line for line in lines)


def test_inspect_of_something_else_says_why(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tiny_bundle(tmp_path, {"resnet/conv1/kernel": np.ones((7, 7, 3, 64), "f4")}))]) == 0
    assert "unknown: none of the 29 architectures" in capsys.readouterr().out


def test_inspect_reads_no_tensor(tmp_path: Path, capsys: Capture) -> None:
    source = tiny_bundle(tmp_path)
    data = tmp_path / f"{source.name}.data-00000-of-00001"
    data.write_bytes(b"\xff" * data.stat().st_size)
    assert main(["inspect", str(source)]) == 0


@pytest.mark.parametrize("command", [["inspect"], ["convert", "-o", "out", "--no-verify", "--quiet"]])
def test_neither_torch_nor_timm_is_imported(tmp_path: Path, command: list[str]) -> None:
    assert imported_by([*command, str(tiny_bundle(tmp_path))], "torch", "timm", cwd=tmp_path) == set()


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_usage_is_told_with_2(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--no-such-option"])
    assert end.value.code == 2


def test_the_script_is_the_same_command(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "convert_tf_weights.py"
    done = python(script, tiny_bundle(tmp_path), "-o", tmp_path / "out", "--no-verify", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert len(script.read_text().splitlines()) <= 60
