"""A Hub that refuses, breaks off, dawdles or sends other bytes, at every request of every operation."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from safetensors.numpy import load_file

from tests._google_archive import archive, variables
from tests.archive_server import FileServer
from tests.campaign.conduct import TOKEN, BeginPart, Campaign
from tests.convert.test_publish import REPO, assert_published, write_folder
from tests.faulty_server import Fault, Service
from tests.hub_server import LocalHub
from tests.weights.test_hub_loading import SMALL, hub_files
from timm_effnet_ext.convert.google.archives import convert_archive, find
from timm_effnet_ext.convert.pipeline import WEIGHTS_FILE, convert
from timm_effnet_ext.convert.publish import Target, publish
from timm_effnet_ext.convert.records import Options
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.predict.classifier import load_classifier

FAULTS: dict[str, dict[str, Any]] = {
    **{str(status): {"status": status} for status in (401, 403, 404, 429, 500)},
    "cut": {"cut_after": 100},
    "no answer": {"lose_answer": True},
    "slow": {"pause": 0.05},
    "silent": {"pause": 1.5},  # longer than the clients wait here, see `operations`
    "other length": {"body": b"{}"},
    "other bytes": {"damage": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])},
}
FOREVER = 1000  # requests
# What the Hub's client keeps in its cache, and timm reads before anything of ours does.
STAY = {("GET /alice/small/resolve/main/config.json", "other bytes")}
SAMPLE = 10


class Operation(NamedTuple):
    """What is asked of a server."""

    service: Service
    begin: Callable[[], None]  # as nobody had asked before, an empty cache included
    run: Callable[[], object]  # again, of what is there
    check: Callable[[], None]  # assert that the result is right


@pytest.fixture
def operations(local_hub: LocalHub, google: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The operations by name."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr("timm_effnet_ext.convert.google.download._TIMEOUT", 1)
    folder, out, b0 = write_folder(tmp_path / "folder"), tmp_path / "out", find("efficientnet_b0.in1k")
    small = timm.create_model("hucorz_efficientnet_b0", **SMALL)
    packed, loaded, arrays = archive(variables()), [], {}

    def forget() -> None:
        for cache in (tmp_path / "hub_cache", tmp_path / "assets", out):
            shutil.rmtree(cache, ignore_errors=True)
        local_hub.repos.clear()

    def begin_load() -> None:
        forget()
        local_hub.add("alice/small", hub_files(small))

    def check_load() -> None:
        assert all(torch.equal(value, small.state_dict()[name]) for name, value in loaded[-1].state_dict().items())

    def check_conversion() -> None:
        found, config = load_file(out / WEIGHTS_FILE), json.loads((out / "config.json").read_bytes())
        assert all((found[name] == value.numpy()).all() for name, value in small.state_dict().items())
        assert config["model_args"] == {**SMALL, **config["model_args"]}

    def begin_download() -> None:
        forget()
        google.files[b0.path] = packed

    def check_download() -> None:
        found = load_file(out / WEIGHTS_FILE)
        assert all((found[name] == array).all() for name, array in (arrays or found).items())
        arrays.update(found)

    return {
        "push": Operation(
            local_hub, forget, lambda: publish(folder, Target(REPO)), lambda: assert_published(local_hub, folder)
        ),
        "predict hf-hub:": Operation(
            local_hub, begin_load,
            lambda: loaded.append(load_classifier("hf-hub:alice/small").model), check_load,
        ),
        "convert hf-hub:": Operation(
            local_hub, begin_load,
            lambda: convert("hf-hub:alice/small", out, Options(verify=False, overwrite=True)), check_conversion,
        ),
        "google convert": Operation(
            google, begin_download,
            lambda: convert_archive(b0, out, Options(verify=False, overwrite=True), lambda *_: None), check_download,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["push", "predict hf-hub:", "convert hf-hub:", "google convert"])
def test_faults(name: str, operations: dict[str, Operation], campaign: Campaign, part: BeginPart) -> None:
    operation = operations[name]
    operation.begin()
    operation.service.requests.clear()
    operation.run()
    operation.check()
    requests = dict.fromkeys(operation.service.requests)
    cases = [(r, fault, times) for r in requests for fault in FAULTS for times in (1, FOREVER)]
    campaign.rng("hub", name).shuffle(cases)
    with part(f"{name}, a failing server", "it asked again, or did without; the result is the right one") as found:
        for number in campaign.cases(len(cases), SAMPLE):
            request, fault, times = cases[number]
            operation.begin()
            operation.service.faults[:] = [Fault(re.escape(request), **FAULTS[fault], times=times)]
            said, problem = _attempt(operation)
            operation.service.faults.clear()
            afterwards, wrong = _attempt(operation)
            if (request, fault) in STAY and said:
                afterwards = ""
            still = f"afterwards: {wrong or afterwards}" if wrong or afterwards else None
            found.count(f"{request}, {fault} × {times}", bool(said), problem or still)


def _attempt(operation: Operation) -> tuple[str, str | None]:
    """Return what an operation said instead of a result, and what is wrong with either."""
    try:
        operation.run()
    except EffNetExtError as err:
        said = str(err)
        return said, f"not one line without the token: {said}" if "\n" in said or TOKEN in said else None
    except Exception as err:
        return "", f"{type(err).__name__}: {err}"
    try:
        operation.check()
    except (AssertionError, KeyError) as err:
        return "", f"a wrong result: {err!r}"
    return "", None
