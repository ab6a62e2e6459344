"""`list` and `info` print tables and JSON, start quickly, and answer slips with one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import timm

from tests.processes import imported_by
from timm_effnet_ext.__main__ import main
from timm_effnet_ext.arch.rows import ARCHS, PREFIX
from timm_effnet_ext.arch.summary import summarize

Capture = pytest.CaptureFixture[str]


def test_list_has_every_model_and_only_weights_that_exist(capsys: Capture) -> None:
    assert main(["list", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == [PREFIX + name for name in ARCHS]
    listed = {f"{record['name']}.{tag}" for record in records for tag in record["weights"]}
    assert listed == set(timm.list_models(f"{PREFIX}*", pretrained=True))


def test_the_first_weights_are_the_default_ones(capsys: Capture) -> None:
    main(["list", "--json"])
    for record in json.loads(capsys.readouterr().out):
        assert timm.get_pretrained_cfg(record["name"]).tag == record["weights"][0]


def test_list_takes_wildcards_as_timm_does(capsys: Capture) -> None:
    assert main(["list", "*lite*"]) == 0
    title, rule, *lines = capsys.readouterr().out.splitlines()
    assert title.split() == ["model", "Mparams", "GMACs", "train", "test", "weights"]
    assert set(rule) == {"-", " "}
    assert [line.split()[0] for line in lines] == [f"{PREFIX}efficientnet_lite{i}" for i in range(5)]
    assert lines[0].split()[1:] == ["4.7", "0.39", "224", "224", "in1k"]


def test_a_part_of_a_name_is_enough(capsys: Capture) -> None:
    assert main(["list", "V2_b", "--json"]) == 0
    names = [record["name"] for record in json.loads(capsys.readouterr().out)]
    assert names == [f"{PREFIX}efficientnetv2_b{i}" for i in range(4)]


def test_a_filter_that_fits_nothing_is_an_error(capsys: Capture) -> None:
    assert main(["list", "*resnet*"]) == 1
    assert capsys.readouterr().err == "error: no model fits '*resnet*'; without a filter all are listed\n"


def test_a_narrow_terminal_gets_the_last_column_wrapped_below_itself(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "76")
    main(["list", "*_b5"])
    title, _, first, second = capsys.readouterr().out.splitlines()
    assert max(map(len, (title, first, second))) <= 76
    column = title.index("weights")
    assert first[column:] + " " + second[column:] == "ns_jft_in1k, ap_in1k, ra_in1k, aa_in1k, in1k"
    assert second[:column].isspace()


def test_info_is_the_summary(capsys: Capture) -> None:
    options = ["--img-size", "75", "--width-mult", "0.5", "--depth-mult", "1.2"]
    assert main(["info", "efficientnetv2_b1", "--json", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    summary = summarize(ARCHS["efficientnetv2_b1"], 75, width_mult=0.5, depth_mult=1.2)
    assert record["stages"] == [row._asdict() for row in summary.rows]
    assert (record["params"], record["macs"]) == (summary.params, summary.macs)


def test_info_prints_the_papers_rows(capsys: Capture) -> None:
    assert main(["info", "hucorz_efficientnetv2_s"]) == 0
    out = capsys.readouterr().out
    assert "\n4      MBConv4, k3x3, SE0.25        2       128       6    24x24  917.7 k  448.9 M\n" in out
    assert "total                                         42           21.46 M  8.366 G\n" in out


def test_a_tag_gives_the_classes_of_its_weights(capsys: Capture) -> None:
    assert main(["info", "efficientnetv2_s.in21k", "--json"]) == 0
    expected = summarize(ARCHS["efficientnetv2_s"], num_classes=21843)  # Google's ImageNet-21k
    assert json.loads(capsys.readouterr().out)["params"] == expected.params


def test_a_tag_gives_the_sizes_of_its_weights(capsys: Capture) -> None:
    assert main(["info", "efficientnet_l2.ns_jft_in1k_475", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["img_size"], record["train_size"], record["test_size"]) == (475, 475, 475)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_b9", "no architecture 'efficientnet_b9'; did you mean efficientnet_b8"),
        ("b1", "no architecture 'b1'; did you mean efficientnet_b1, efficientnetv2_b1, efficientnet_cc_b1_8e?\n"),
        ("resnet50", "no architecture 'resnet50'; `timm-effnet-ext list` prints them\n"),
        ("efficientnet_lite0.in22k", "hucorz_efficientnet_lite0 has no weights 'in22k', only in1k"),
    ],
)
def test_an_unknown_model_is_one_line(name: str, message: str, capsys: Capture) -> None:
    assert main(["info", name]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {message}")
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    "option", [("--img-size", "0"), ("--img-size", "big"), ("--width-mult", "nan"), ("--depth-mult", "1e9")]
)
def test_a_senseless_option_is_a_usage_error(option: tuple[str, str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["info", "efficientnet_b0", *option])
    assert exit_.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_info_needs_neither_torch_nor_timm() -> None:
    assert imported_by(["info", "efficientnet_b0"], "torch", "timm", "numpy") == set()


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """The output waits in Python's buffer until the end, where nobody would catch the broken pipe."""
    command = [sys.executable, "-c", "from timm_effnet_ext.__main__ import main; raise SystemExit(main())"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [*command, "info", "efficientnet_b0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 0)
    process.stderr.close()
