"""What a loaded PyTorch checkpoint holds: the network's tensors, their averages, an optimizer's, and what it says."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from timm_effnet_ext.convert.checkpoint.checkpoint import Statement, TensorEntry, Variables
from timm_effnet_ext.convert.readers.pytorch.settings import sensible_settings, train_py_statement
from timm_effnet_ext.convert.readers.pytorch.statements import statements_in
from timm_effnet_ext.errors import CheckpointFormatError, first_few

# What training scripts call the weights and their average: timm train.py, torchvision references/classification.
_RAW_KEYS = ("state_dict", "model", "model_state_dict", "net")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict")
_INSIDE = ("module", "state_dict")  # where an object that averages keeps the weights in its own state
_TRAINED, _AVERAGING = "current_model_state", "averaging_state"  # pytorch_lightning/callbacks/weight_averaging.py
_SWAPPED, _MMENGINES = "ema_state_dict", "steps"  # mmengine/hooks/ema_hook.py `_swap_ema_state_dict`
_OPTIMIZERS = ("optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "opt", "optim")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and AveragedModel, torch.compile
_METADATA = "the state_dict's own metadata"
_OWN_CFG = "assumed, as the cfg of the model that was saved has it"
_EMA_COUNTERS = ("n_averaged", _MMENGINES)  # torch/optim/swa_utils.py, mmengine/model/averaged_model.py
_STEPS = ("epoch", "step", "global_step")
_MAX_DEPTH = 3  # of tables of weights in a checkpoint


class Contents(NamedTuple):
    """A checkpoint's tensors, and what its other entries say; `run` has the arguments that train.py was run with."""

    variables: Variables
    statements: tuple[Statement, ...] = ()
    notes: tuple[str, ...] = ()
    run: Mapping[str, Any] | None = None


def contents(file: Path, loaded: Any) -> Contents:
    """Return what was loaded from a file.

    Raises:
        CheckpointFormatError: No table of tensors is in it.
    """
    if not isinstance(loaded, Mapping):
        raise CheckpointFormatError(f"holds a {type(loaded).__name__}, expected a state_dict")
    given, ema = _state(loaded, _RAW_KEYS), _state(loaded, _EMA_KEYS)
    if (trained := _trained_apart(loaded)) is not None:
        given, ema = trained, given
    if ema and not any(map(_is_tensor, ema.values())):
        ema = None  # settings of an average, not its weights
    state = loaded if given is None else given
    raw = None if given is None and ema is not None else _tables(state)
    averages = _entries(file, ema or {})
    plain = [str(key) for key, value in state.items() if not _is_tensor(value)] if raw is state else []
    found = sorted_out(averages if raw is None else _entries(file, raw), averages, plain)
    if not found.model:
        raise CheckpointFormatError(f"expected a state_dict, found no tensors: {first_few(state)}")
    found.counters.update({k: scalar(file, k, loaded[k]) for k in _STEPS if isinstance(loaded.get(k), int)})
    found.slots.update(_slots(file, loaded))
    run = vars(loaded["args"]) if isinstance(loaded.get("args"), argparse.Namespace) else None
    statements = _said(loaded, raw or ema or {}, run)
    return Contents(found, statements, _ignored(loaded, raw, has_ema=bool(ema)), run)


def sorted_out(model: dict[str, TensorEntry], ema: dict[str, TensorEntry], metadata: Sequence[str] = ()) -> Variables:
    """Return tensors and averages, without the count of what was averaged; `metadata` names what is no tensor."""
    counted = {name: table.pop(name) for table in (model, ema) for name in _EMA_COUNTERS if name in table}
    return Variables(model, ema, {}, counted, tuple(metadata))


def _said(loaded: Mapping[Any, Any], state: Mapping[Any, Any], run: Mapping[str, Any] | None) -> tuple[Statement, ...]:
    """Return what a checkpoint says beside its weights, the most certain first."""
    own = tuple(_of_our_models(state))
    cfg = own[0][1] if len(own) == 1 else {}
    of_run = [] if run is None else [train_py_statement(run, loaded.get("arch"), cfg)]
    return (*(said for said, _ in own), *of_run, *statements_in(loaded), Statement(_OWN_CFG, preprocessing=cfg))


def _of_our_models(state: Any) -> Iterator[tuple[Statement, Mapping[str, Any]]]:
    """Yield what a state_dict says of this package's models in its metadata, and the cfg that each was made for.

    torch keeps this metadata beside the tensors.
    """
    for path, table in _items(getattr(state, "_metadata", None)):
        said = table if isinstance(table, Mapping) else {}
        name, args = said.get("architecture"), said.get("model_args")
        if isinstance(name, str) and isinstance(args, Mapping):
            prefix = _clean(f"{path}." if path else "")
            yield (
                Statement(_METADATA, prefix=prefix, name=name, model_args=args),
                sensible_settings(said.get("preprocessing")),
            )


def _state(loaded: Mapping[Any, Any], keys: tuple[str, ...]) -> Mapping[Any, Any] | None:
    """Return the first of the named tables of tensors, or the one inside it."""
    for key in keys:
        if isinstance(state := loaded.get(key), Mapping):
            return next((state[name] for name in _INSIDE if isinstance(state.get(name), Mapping)), state)
    return None


def _trained_apart(loaded: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """Return what was trained, where a checkpoint of Lightning's or mmengine's has the averages as `state_dict`."""
    trained, swapped = loaded.get(_TRAINED), loaded.get(_SWAPPED)
    if isinstance(swapped, Mapping) and _is_tensor(swapped.get(_MMENGINES)):
        return swapped
    return trained if isinstance(trained, Mapping) and _AVERAGING in loaded else None


def _tables(loaded: Mapping[Any, Any], depth: int = 0) -> Mapping[Any, Any]:
    """Return all tensors of a checkpoint whose tables have names of their own, which become prefixes."""
    if any(map(_is_tensor, loaded.values())) or depth == _MAX_DEPTH:
        return loaded
    out: dict[str, Any] = {}
    for key, value in loaded.items():
        if isinstance(value, Mapping) and str(key) not in _OPTIMIZERS:
            found = {name: item for name, item in _tables(value, depth + 1).items() if _is_tensor(item)}
            out |= {f"{key}.{name}": item for name, item in found.items()}
    return out


def _ignored(loaded: Mapping[Any, Any], raw: Mapping[Any, Any] | None, *, has_ema: bool) -> tuple[str, ...]:
    """Say which other entries could be weights too: averages without names, and what has the variables of `raw`."""
    unnamed = [] if has_ema else [key for key in _EMA_KEYS if isinstance(loaded.get(key), Mapping | list)]
    others = {key: value for key, value in loaded.items() if key not in (*_RAW_KEYS, *_EMA_KEYS, _TRAINED)}
    same = [key for key, value in others.items() if raw and isinstance(value, Mapping) and value.keys() == raw.keys()]
    return (
        *(f"the entry {key!r} has no tensors by the names of variables and was left alone" for key in unnamed),
        *(f"the entry {str(key)!r} has the same variables and was left alone" for key in same),
    )


def _entries(file: Path, state: Mapping[Any, Any]) -> dict[str, TensorEntry]:
    """Return the tensors of a state_dict under their clean names."""
    names = {key: _clean(str(key)) for key, value in state.items() if _is_tensor(value)}
    return {name: _entry(file, name, state[key]) for key, name in names.items()}


def _clean(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _entry(file: Path, name: str, tensor: Any) -> TensorEntry:
    """Return one tensor; its bytes stay in the mapped file until they are read."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")

    def load() -> np.ndarray:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointFormatError(f"{name!r} is a {tensor.layout} tensor of {dtype}, not a plain one")
        plain = tensor.detach().float() if dtype == "bfloat16" else tensor.detach()
        return plain.resolve_neg().resolve_conj().numpy()

    return TensorEntry(name, dtype, tuple(tensor.shape), file, load)


def scalar(file: Path, name: str, value: int) -> TensorEntry:
    """Return a number that a file says, as a tensor without axes."""
    return TensorEntry(name, "int64", (), file, lambda: np.array(value))


def _slots(file: Path, loaded: Mapping[Any, Any]) -> dict[str, TensorEntry]:
    """Return the tensors of the optimizers' states, by optimizer, parameter number and name."""
    found = {}
    for key in _OPTIMIZERS:
        several = loaded.get(key)
        for i, optimizer in enumerate(several if isinstance(several, list) else [several]):
            for number, state in _items(optimizer.get("state") if isinstance(optimizer, Mapping) else None):
                for slot, value in _items(state):
                    if _is_tensor(value):
                        name = f"optimizer{i or ''}/{number}/{slot}"
                        found[name] = _entry(file, name, value)
    return found


def _items(table: Any) -> Iterator[tuple[Any, Any]]:
    yield from table.items() if isinstance(table, Mapping) else ()
