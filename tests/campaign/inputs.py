"""Every kind of file that users hand over: how a good one is made, how it is damaged, and which command reads it."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf

import timm_effnet_ext  # noqa: F401  registers the models
from tests.campaign import damage
from tests.campaign.damage import LONGEST, Damage, damaged
from tests.convert._sources import DATA, TINY, tiny_bundle, tiny_variables, with_ema
from tests.convert.readers.keras._files import folder as keras_folder
from tests.predict.test_photos import gradient
from timm_effnet_ext.train.recipe import text as recipe
from timm_effnet_ext.train.runs import ARGS_FILE, STAGES_FILE, SUMMARY_FILE

CHECKED = "a checksum covers it: the weights are the undamaged file's"
UNCHECKED = f"no checksum covers it: the undamaged weights, or at most {LONGEST} of their values are others"
UNPLACED = "no checksum covers it, nor where its values lie: what the format's own library reads"
UNREAD = "nothing of it is needed: the weights are the undamaged file's"
OTHER = "it says something else, which is what is done"
PICTURE = "no checksum covers it: what Pillow makes of it is classified"


@dataclass(frozen=True)
class Input:
    """One kind of file.

    Args:
        cases: How many damaged ones a whole campaign tries.
        make: Writes a good one into a folder and returns the file that is to be damaged.
        command: The file, what is to be written -> the arguments of the command.
        right: Why what was not refused is right.
        differing: How many weights may be others than of the undamaged file; None for all.
    """

    name: str
    cases: int
    make: Callable[[Path], Path]
    command: Callable[[Path, Path], list[object]]
    right: str
    damage: Damage = damaged
    differing: int | None = 0


def _convert(source: Path, out: Path, *options: object) -> list[object]:
    return ["convert", source, "-o", out, "--no-verify", "--quiet", "--json", *options]


def _convert_verified(source: Path, out: Path) -> list[object]:
    """Run the layer graph too, of which the config says what it computes."""
    return ["convert", source, "-o", out, "--quiet", "--json"]


def _convert_folder(file: Path, out: Path) -> list[object]:
    return _convert(file.parent, out)


def _convert_folder_verified(file: Path, out: Path) -> list[object]:
    return _convert_verified(file.parent, out)


def _predict(file: Path, out: Path) -> list[object]:
    folder = file.parent
    return ["predict", folder, next(folder.glob("photo.*")), "--json"]


def _plot(file: Path, out: Path) -> list[object]:
    return ["plot", file.parent, "-o", out.with_suffix(".svg")]


def bundle_file(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        values = tiny_variables()
        prefix = tiny_bundle(folder, with_ema(values), slices={next(iter(values)): (3, 2)})
        return prefix.with_name(prefix.name + suffix)

    return make


def _copied(source: Path, file: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(source, folder)) / file


def _saved_model(folder: Path) -> Path:
    file = _copied(DATA / "automl_v2_b0_tf2" / "saved_model", "saved_model.pb")(folder)
    file.write_bytes(bytes(range(256)))
    return file


def _archive(folder: Path) -> Path:
    tiny_bundle(folder / "made")
    with tarfile.open(folder / "a.tgz", "w:gz", compresslevel=1) as tar:
        tar.add(folder / "made", "efficientnet")
    shutil.rmtree(folder / "made")
    return folder / "a.tgz"


def _keras(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        return Path(shutil.copy(keras_folder() / name, folder))

    return make


def _preset(file: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(keras_folder() / "other3_kerashub_preset", folder)) / file


def _packed(folder: Path) -> Path:
    """Write a .weights.h5 whose larger tensors are compressed and in pieces, unlike Keras'."""
    folder.mkdir()
    with (
        h5py.File(keras_folder() / "keras3_nested.weights.h5") as plain,
        h5py.File(folder / "packed.weights.h5", "w") as out,
    ):

        def copy(name: str, found: h5py.Group | h5py.Dataset) -> None:
            is_array = isinstance(found, h5py.Dataset)
            options: dict[str, Any] = {"compression": "gzip"} if is_array and found.size > 2000 else {}
            new = out.create_dataset(name, data=found[()], **options) if is_array else out.create_group(name)
            new.attrs.update(found.attrs)

        plain.visititems(copy)
    return folder / "packed.weights.h5"


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("hucorz_efficientnetv2_b0", **TINY).state_dict()


def _pth(**options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        saved = {"state_dict": _state(), "epoch": 3, "arch": "hucorz_efficientnetv2_b0"}
        torch.save(saved, folder / "model.pth", **options)
        return folder / "model.pth"

    return make


def _safetensors(folder: Path) -> Path:
    folder.mkdir()
    save_file(_state(), folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors"


def hub_folder(folder: Path) -> Path:
    """Write a timm folder of a tiny model of small images, with labels, and a photo."""
    size = {"input_size": (3, 64, 64), "test_input_size": (3, 64, 64)}
    model = timm.create_model("hucorz_efficientnet_lite0", **TINY, pretrained_cfg_overlay=size)
    labels = {"label_names": list("abcde"), "label_descriptions": {name: f"letter {name}" for name in "abcde"}}
    save_for_hf(model, str(folder), model_config=labels, safe_serialization=True)
    gradient().save(folder / "photo.png")
    return folder / "config.json"


def _photo(suffix: str, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        hub_folder(folder)
        (folder / "photo.png").unlink()
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation
        gradient().save(folder / f"photo{suffix}", exif=exif, **options)
        return folder / f"photo{suffix}"

    return make


def run_file(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        rows = [f"{epoch},{2 - epoch / 10},{2.1 - epoch / 10},{10 * epoch},{12 * epoch},0.1" for epoch in range(8)]
        (folder / SUMMARY_FILE).write_text("\n".join(["epoch,train_loss,eval_loss,eval_top1,eval_top5,lr", *rows, ""]))
        (folder / STAGES_FILE).write_text("\n".join(["epoch,size", *(f"{n},{32 + n // 2 * 8}" for n in range(8)), ""]))
        args = {"model": "hucorz_efficientnetv2_s", "lr": 0.1, "sched": None, "mean": [0.5, 0.5, 0.5], "resume": ""}
        (folder / ARGS_FILE).write_text(yaml.safe_dump(args))
        return folder / file

    return make


def _labels(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tiny_bundle(folder)
        names = ["ash", "birch", "cedar", "döner kebab", "elm"]
        file = folder / f"labels{suffix}"
        file.write_text(json.dumps(names) if suffix == ".json" else "\n".join(names))
        return file

    return make


def _convert_labelled(file: Path, out: Path) -> list[object]:
    return _convert(file.parent / "model.ckpt-7", out, "--label-names", file)


def _reference(folder: Path) -> Path:
    return _copied(DATA / "tpu_lite0", "reference_raw.npz")(folder)


def _convert_compared(file: Path, out: Path) -> list[object]:
    source = file.parent / "model.ckpt-4321"
    return ["convert", source, "-o", out, "--weights", "raw", "--quiet", "--json", "--reference", file]


def _recipe(folder: Path) -> Path:
    folder.mkdir()
    (folder / "train.py").write_text("")  # trains nothing, which is an error too
    (folder / "recipe.yaml").write_text(recipe("progressive-v2-s"))
    return folder / "recipe.yaml"


def _launch(file: Path, out: Path) -> list[object]:
    return ["run", "--progressive", "auto", file.with_name("train.py"), "-c", file]


_SHARD = ".data-00000-of-00001"
_OBJECT_GRAPH = DATA / "automl_v2_b0_tf2" / "object"
INPUTS = (
    Input("bundle index", 900, bundle_file(".index"), _convert, CHECKED),
    Input("bundle index, below its checksums", 900, bundle_file(".index"), _convert, CHECKED, damage.in_table),
    Input("bundle data", 500, bundle_file(_SHARD), _convert, CHECKED),
    Input("object graph, index", 300, _copied(_OBJECT_GRAPH, "ckpt-1.index"), _convert, CHECKED),
    Input("object graph, data", 300, _copied(_OBJECT_GRAPH, f"ckpt-1{_SHARD}"), _convert, CHECKED),
    Input("checkpoint file of a folder", 200, _copied(_OBJECT_GRAPH, "checkpoint"), _convert_folder, UNREAD),
    Input("saved_model.pb", 100, _saved_model, _convert_folder, UNREAD),
    Input(".tgz", 400, _archive, _convert, CHECKED),
    Input(".tgz, below its checksum", 400, _archive, _convert, CHECKED, damage.in_gzip),
    Input(".h5, Keras 2", 400, _keras("keras2_nested.h5"), _convert, UNCHECKED, differing=LONGEST),
    Input(".h5, Keras 3", 400, _keras("keras3_nested.h5"), _convert, UNCHECKED, differing=LONGEST),
    Input(".h5, weights only", 400, _keras("keras2_nested_weights.h5"), _convert, UNCHECKED, differing=LONGEST),
    Input(".weights.h5", 500, _keras("keras3_nested.weights.h5"), _convert, UNCHECKED, differing=LONGEST),
    Input(".weights.h5, compressed", 300, _packed, _convert, UNPLACED, differing=None),
    Input(".keras", 400, _keras("keras3_flat.keras"), _convert, CHECKED),
    Input(
        ".keras, its config", 300, _keras("keras3_flat.keras"), _convert_verified, OTHER,
        damage.in_zip("config.json", damage.nonsensical),
    ),
    Input(
        ".keras, its config, Keras 2", 300, _keras("keras2_topless.keras"), _convert_verified, OTHER,
        damage.in_zip("config.json", damage.nonsensical),
    ),
    Input(
        ".keras, its weights, below its checksum", 300, _keras("keras3_sequential.keras"), _convert, UNCHECKED,
        damage.in_zip(".weights.h5"), LONGEST,
    ),
    Input(
        ".h5, operators", 300, _keras("other2_operators.h5"), _convert_verified, UNCHECKED, differing=LONGEST
    ),
    Input(".h5, custom dropout", 200, _keras("other2_qubvel.h5"), _convert, UNCHECKED, differing=LONGEST),
    Input(
        ".weights.h5, Keras 2.12", 300, _keras("other2_tutorial.weights.h5"), _convert, UNCHECKED, differing=LONGEST
    ),
    Input(
        ".keras, its config, KerasHub", 300, _keras("other3_kerashub.keras"), _convert_verified, OTHER,
        damage.in_zip("config.json", damage.nonsensical),
    ),
    Input("preset, task.json", 200, _preset("task.json"), _convert_folder_verified, OTHER, damage.nonsensical),
    Input("preset, weights", 200, _preset("model.weights.h5"), _convert_folder, UNCHECKED, differing=LONGEST),
    Input(".pth", 800, _pth(), _convert, CHECKED),
    Input(".pth, its pickle, below its checksum", 500, _pth(), _convert, OTHER, damage.in_zip("data.pkl"), None),
    Input(
        ".pth, before torch 1.6", 400, _pth(_use_new_zipfile_serialization=False), _convert, UNPLACED, differing=None
    ),
    Input("safetensors", 600, _safetensors, _convert, UNCHECKED, differing=LONGEST),
    Input("safetensors, its header", 600, _safetensors, _convert, OTHER, damage.in_safetensors_header),
    Input("config.json for convert", 200, hub_folder, _convert_folder, OTHER, damage.nonsensical),
    Input("config.json for convert, verified", 200, hub_folder, _convert_folder_verified, OTHER, damage.nonsensical),
    Input("config.json for predict", 300, hub_folder, _predict, OTHER),
    Input("config.json for predict, its values", 500, hub_folder, _predict, OTHER, damage.nonsensical),
    *(
        Input(f"photo{suffix}", 200, _photo(suffix, **options), _predict, PICTURE)
        for suffix, options in (
            (".png", {}), (".jpg", {}), (".webp", {}), (".gif", {}), (".bmp", {}),
            (".tif", {"compression": "tiff_deflate"}),
        )
    ),
    Input("args.yaml", 300, run_file(ARGS_FILE), _plot, OTHER),
    Input("summary.csv", 300, run_file(SUMMARY_FILE), _plot, OTHER),
    Input("progressive.csv", 200, run_file(STAGES_FILE), _plot, OTHER),
    Input("recipe.yaml", 200, _recipe, _launch, OTHER),
    Input("label names", 150, _labels(".txt"), _convert_labelled, OTHER),
    Input("label names, JSON", 150, _labels(".json"), _convert_labelled, OTHER),
    Input("reference.npz", 100, _reference, _convert_compared, CHECKED),
)  # fmt: skip
