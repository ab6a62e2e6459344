"""The registry: one entry point for each row, cfgs that are timm's own, and an import that does nothing else."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import timm
from timm.models import get_arch_pretrained_cfgs, save_for_hf

from tests.processes import python
from tests.small_models import assert_same_values, create, images
from timm_effnet_ext.arch.rows import ARCHS, PREFIX
from timm_effnet_ext.models import hucorz_efficientnet


def printed(code: str, *flags: str, cwd: Path | None = None) -> str:
    """Return what a fresh interpreter prints, warnings included."""
    done = python(*flags, "-c", code, cwd=cwd)
    return done.stdout + done.stderr


def test_each_row_has_one_entry_point() -> None:
    assert sorted(hucorz_efficientnet.__all__) == sorted(PREFIX + name for name in ARCHS)
    assert sorted(timm.list_models(f"{PREFIX}*")) == sorted(hucorz_efficientnet.__all__)
    for name in hucorz_efficientnet.__all__:
        assert pickle.loads(pickle.dumps(timm.model_entrypoint(name))) is getattr(hucorz_efficientnet, name)


@pytest.mark.parametrize("name", ARCHS)
def test_cfgs_are_timms(name: str) -> None:
    ours = {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(PREFIX + name).items()}
    theirs = {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(f"tf_{name}").items()}
    assert list(ours)[: len(theirs)] == list(theirs)  # the default tag comes first
    for tag, cfg in theirs.items():
        assert replace(ours[tag], architecture=None) == replace(cfg, url=None, architecture=None)
    assert not [tag for tag in ours.keys() - theirs.keys() if ours[tag].has_weights]


def test_importing_registers_in_either_order_and_does_nothing_else(tmp_path: Path) -> None:
    count = f"print(len(timm.list_models('{PREFIX}*')))"
    for line in ("import timm, timm_effnet_ext", "import timm_effnet_ext, timm"):
        assert printed(f"{line}; {count}", "-W", "error", cwd=tmp_path) == f"{len(ARCHS)}\n"
    assert list(tmp_path.iterdir()) == []


def test_who_asks_whether_timm_is_there_does_not_keep_it_from_registering() -> None:
    asked = "import importlib.util, timm_effnet_ext; print(importlib.util.find_spec('timm').name)"
    assert printed(f"{asked}; import timm; print(len(timm.list_models('{PREFIX}*')))") == f"timm\n{len(ARCHS)}\n"


def test_a_failed_import_of_timm_may_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise ImportError('not today')")
    code = f"""
import sys, timm_effnet_ext
sys.path.insert(0, {str(tmp_path)!r})
try:
    import timm
except ImportError as err:
    print(err)
sys.path.pop(0)
import timm
print(len(timm.list_models('{PREFIX}*')))"""
    assert printed(code) == f"not today\n{len(ARCHS)}\n"


@pytest.mark.parametrize("module", ["models.blocks", "weights.source", "models.hucorz_efficientnet"])
def test_any_module_may_be_imported_first(module: str) -> None:
    count = f"import timm; print(len(timm.list_models('{PREFIX}*')))"
    assert printed(f"import timm_effnet_ext.{module}; {count}") == f"{len(ARCHS)}\n"


def test_importing_alone_brings_neither_torch_nor_timm() -> None:
    assert printed("import sys, timm_effnet_ext; print({'torch', 'timm', 'numpy'} & set(sys.modules))") == "set()\n"


def test_scaling_survives_saving_and_loading(tmp_path: Path) -> None:
    model_args = {"width_mult": 0.35, "depth_mult": 0.5}
    model = create(f"{PREFIX}efficientnetv2_s", num_classes=5, **model_args).eval()
    save_for_hf(model, str(tmp_path), model_args=model_args, safe_serialization=True)
    assert model_args.items() <= json.loads((tmp_path / "config.json").read_text())["model_args"].items()
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert_same_values(loaded(images(64)), model(images(64)))


@pytest.mark.parametrize(("width", "depth"), [(0, 1), (1, -1), (float("nan"), 1)])
def test_a_scale_must_be_positive(width: float, depth: float) -> None:
    with pytest.raises(ValueError, match="_mult must be positive, got"):
        timm.create_model(f"{PREFIX}efficientnet_b0", width_mult=width, depth_mult=depth)


def test_an_image_has_channels() -> None:
    with pytest.raises(ValueError, match="in_chans must be positive, got 0"):
        timm.create_model(f"{PREFIX}efficientnet_b0", in_chans=0)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        timm.create_model(f"{PREFIX}efficientnet_b0", colour="red")
