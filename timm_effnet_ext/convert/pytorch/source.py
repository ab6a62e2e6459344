"""PyTorch's files -> Checkpoint: safetensors without torch, pickles by torch's own loader of weights."""

from __future__ import annotations

import argparse
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from timm_effnet_ext.convert.checkpoint import Checkpoint, Variables
from timm_effnet_ext.convert.pytorch.dialects import says_numerics, stated_args
from timm_effnet_ext.convert.pytorch.hub_config import config_beside, model_args_of, settings_of, settings_of_args
from timm_effnet_ext.convert.tensors import TensorEntry, widened
from timm_effnet_ext.errors import CheckpointFormatError, first_few, first_line
from timm_effnet_ext.hub_format import WEIGHT_FILES
from timm_effnet_ext.layout import Shape

# What training scripts call the weights and their average: timm train.py, torchvision references/classification.
_RAW_KEYS = ("state_dict", "model", "model_state_dict", "net")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict")
_INSIDE = ("module", "state_dict")  # where an object that averages keeps the weights in its own state
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and AveragedModel, torch.compile
_EMA_COUNTER = "n_averaged"
_STEPS = ("epoch", "step", "global_step")

_ZIP, _LEGACY = b"PK\x03\x04", bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # magic number of torch/serialization.py
_CHUNK = 1 << 20  # bytes
_MAX_HEADER = 100_000_000  # bytes of a safetensors header that the format allows
# safetensors dtype -> (name, numpy dtype of the bytes)
_DTYPES = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"), "I32": ("int32", "<i4"), "I16": ("int16", "<i2"), "I8": ("int8", "|i1"),
    "U8": ("uint8", "|u1"), "BOOL": ("bool", "|b1"),
}  # fmt: skip


def recognise(path: Path) -> Path | None:
    """Return the weight file that a path names, if it is one of PyTorch's; a folder may be in timm's Hub format."""
    if path.is_dir():
        return next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if not path.is_file():
        return None
    return path if _is_safetensors(path) or _is_pickle(path) else None


@contextmanager
def open_torch(path: Path, *, crc: bool = True) -> Iterator[Checkpoint]:
    """Open a file that `recognise` knows. `crc` checks the whole of a zip first.

    Raises:
        CheckpointFormatError: Damaged, or with other Python objects than tensors, which are never loaded.
    """
    file = recognise(path)
    if file is None:
        raise CheckpointFormatError(f"{path}: is no PyTorch file")
    if _is_safetensors(file):
        found, said, form = _safetensors(file), _Said(), "safetensors"
    else:
        found, said = _pickle(file, crc)
        form = "PyTorch pickle"
    config = config_beside(file)
    name = config.get("architecture", said.architecture)
    notes = said.notes
    if "conv_stem.weight" in found.model and not says_numerics(name) and "pad_type" not in said.model_args:
        assumed = "TensorFlow's padding and BatchNorm epsilon were assumed; timm's models without tf_ have others"
        notes = (*notes, f"{_of_whom(name)}: {assumed}")
    yield Checkpoint(
        path=path,
        framework="torch",
        format=form,
        files=(file,),
        variables=found,
        preprocessing={**said.preprocessing, **settings_of(config)},
        model_args={**stated_args(name), **said.model_args, **config.get("model_args", {})},
        notes=notes,
    )


class _Said(NamedTuple):
    """What a file says beside its weights: the name of its model, train.py's arguments, and what was not read."""

    architecture: str | None = None
    model_args: Mapping[str, Any] = {}
    preprocessing: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


def _of_whom(name: str | None) -> str:
    return "the file does not name its model" if name is None else f"the name {name!r} does not tell the model"


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(len(_LEGACY))
    if head.startswith(_ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
            return path.suffix in (".pth", ".pt", ".bin")  # cut: its own reader says so
    return head == _LEGACY


def _safetensors(path: Path) -> Variables:
    """Return the tensors as views of the mapped file, after the library has checked the header."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OverflowError, MemoryError) as err:
        raise CheckpointFormatError(f"{path}: cut or no safetensors file ({err})") from err
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + size) if path.stat().st_size > 8 + size else np.empty(0, np.uint8)
    tensors = {name: _mapped(path, data, name, row) for name, row in header.items()}
    return _sorted(tensors, {})


def _mapped(path: Path, data: np.ndarray, name: str, row: Mapping[str, Any]) -> TensorEntry:
    kind, shape = row["dtype"], tuple(row["shape"])
    begin, end = row["data_offsets"]
    dtype, stored = _DTYPES.get(kind, (kind, None))

    def load() -> np.ndarray:
        if stored is None:
            raise CheckpointFormatError(f"{path}: {name!r} has dtype {kind}, supported are {', '.join(_DTYPES)}")
        values = data[begin:end].view(stored).reshape(shape)
        return widened(values) if dtype == "bfloat16" else values

    return TensorEntry(name, dtype, shape, load)


def _pickle(path: Path, crc: bool) -> tuple[Variables, _Said]:
    """Return the variables and what the file says of them."""
    import torch

    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip and crc:
            _check_sums(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            # timm's train.py saves its arguments; damaged files make torch warn before it fails
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as err:
        raise CheckpointFormatError(
            f"{path}: holds other Python objects than tensors, or is damaged. They are never loaded: save "
            f"model.state_dict() instead ({first_line(err)})"
        ) from err
    except Exception as err:  # damaged bytes are a program of the unpickler's own: it may end in any error
        raise CheckpointFormatError(f"{path}: cut or damaged ({first_line(err)})") from err
    if not isinstance(loaded, Mapping):
        raise CheckpointFormatError(f"{path}: holds a {type(loaded).__name__}, expected a state_dict")
    raw, ema = _state(loaded, _RAW_KEYS), _state(loaded, _EMA_KEYS)
    if ema and not any(isinstance(value, torch.Tensor) for value in ema.values()):
        ema = None  # settings of an average, not its weights
    if raw is None and ema is None:
        return _sorted(_entries(path, loaded), {}), _Said()
    averages = _entries(path, ema or {})
    found = _sorted(averages if raw is None else _entries(path, raw), averages)
    found.counters.update({k: _scalar(k, loaded[k]) for k in _STEPS if isinstance(loaded.get(k), int)})
    found.slots.update(_slots(path, loaded.get("optimizer")))
    name, args = loaded.get("arch"), loaded.get("args")
    stated = vars(args) if isinstance(args, argparse.Namespace) else {}
    said = _Said(
        name if isinstance(name, str) else None, model_args_of(stated), settings_of_args(stated), _ignored(loaded, raw)
    )
    return found, said


def _ignored(loaded: Mapping[Any, Any], raw: Mapping[Any, Any] | None) -> tuple[str, ...]:
    """Say which other entries could be weights too: they have the variables of `raw`."""
    others = {key: value for key, value in loaded.items() if key not in (*_RAW_KEYS, *_EMA_KEYS)}
    same = [key for key, value in others.items() if raw and isinstance(value, Mapping) and value.keys() == raw.keys()]
    return tuple(f"the entry {str(key)!r} has the same variables and was left alone" for key in same)


def _state(loaded: Mapping[Any, Any], keys: tuple[str, ...]) -> Mapping[Any, Any] | None:
    """Return the first state_dict under some keys, or inside of what lies there."""
    for key in keys:
        if isinstance(state := loaded.get(key), Mapping):
            return next((state[name] for name in _INSIDE if isinstance(state.get(name), Mapping)), state)
    return None


def _check_sums(path: Path) -> None:
    """Raise unless the members of a zip have their checksums, at which torch does not look."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.CRC:  # 0 where torch.serialization.set_crc32_options(False) left it out
                with archive.open(info) as member:
                    while member.read(_CHUNK):
                        pass


def _entries(path: Path, state: Mapping[Any, Any]) -> dict[str, TensorEntry]:
    """Return the tensors of a state_dict under their clean names."""
    import torch

    wrong = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise CheckpointFormatError(f"{path}: {len(wrong)} entries are no tensors: {first_few(wrong)}")
    entries = {}
    for key, tensor in state.items():
        name = _clean(str(key))
        entries[name] = _entry(path, name, tensor)
    return entries


def _clean(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _entry(path: Path, name: str, tensor: Any) -> TensorEntry:
    """Return one tensor; its bytes stay in the mapped file until they are read."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")

    def load() -> np.ndarray:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointFormatError(f"{path}: {name!r} is a {tensor.layout} tensor of {dtype}, not a plain one")
        plain = tensor.detach().float() if dtype == "bfloat16" else tensor.detach()
        return plain.resolve_neg().resolve_conj().numpy()

    return TensorEntry(name, dtype, _shape(tensor), load)


def _shape(tensor: Any) -> Shape:
    return tuple(tensor.shape)


def _scalar(name: str, value: int) -> TensorEntry:
    return TensorEntry(name, "int64", (), lambda: np.array(value))


def _slots(path: Path, optimizer: Any) -> dict[str, TensorEntry]:
    """Return the tensors of an optimizer's state, by parameter number and name."""
    import torch

    states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    found = {}
    for number, state in states.items() if isinstance(states, Mapping) else ():
        for key, value in state.items() if isinstance(state, Mapping) else ():
            if isinstance(value, torch.Tensor):
                name = f"optimizer/{number}/{key}"
                found[name] = _entry(path, name, value)
    return found


def _sorted(model: dict[str, TensorEntry], ema: dict[str, TensorEntry]) -> Variables:
    counters = {_EMA_COUNTER: ema.pop(_EMA_COUNTER)} if _EMA_COUNTER in ema else {}
    if _EMA_COUNTER in model:
        counters[_EMA_COUNTER] = model.pop(_EMA_COUNTER)
    return Variables(model, ema, {}, counters)
