"""Refuses weights that are not this model's: another architecture, other numerics, damaged values or files."""

from __future__ import annotations

import json
import logging
import pickle
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from timm.models import load_state_dict
from torch import Tensor, nn

from timm_effnet_ext.arch import PREFIX
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_few
from timm_effnet_ext.hub_errors import HUB_ERRORS, first_line, hub_answer
from timm_effnet_ext.identify import identify_state
from timm_effnet_ext.storage import sha256

_logger = logging.getLogger(__name__)

# Arguments that change the result without changing any shape, with the value that a `tf_*` or our row implies.
_NUMERICS = {"pad_type": "same", "bn_eps": 1e-3, "act_layer": None}
_HEAD = ("conv_head.", "bn2.", "classifier.")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository in timm's format
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STARTED = time.time()  # before anything was downloaded


def check_pretrained(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return `state_dict` if it is this model's; timm calls this before it adapts classifier and input channels.

    Raises:
        CheckpointFormatError: Names or shapes are another architecture's, or the source's own config names a model
            that computes something else. The message names the architecture that fits.
    """
    cfg = model.pretrained_cfg
    where = _source(cfg)
    if cfg.get("hf_hub_id"):
        _check_download(cfg, where)
    _check_config(_source_config(cfg), model, where)
    classes, file_classes = getattr(model, "num_classes", None), cfg.get("num_classes")
    other_head = classes is not None and classes != file_classes
    expected = _shapes(model.state_dict())
    found = _shapes(state_dict)
    if classes is None:  # a feature extractor has no head
        found = {k: v for k, v in found.items() if not k.startswith(_HEAD)}
    if other_head:
        found, expected = ({k: v for k, v in d.items() if not k.startswith("classifier.")} for d in (found, expected))
    offset = cfg.get("label_offset") or 0
    for key in ("classifier.weight", "classifier.bias"):
        if offset and key in expected:
            expected[key] = (expected[key][0] + offset, *expected[key][1:])
    source_chans = (cfg.get("input_size") or (3,))[0]
    stem = expected["conv_stem.weight"]
    expected["conv_stem.weight"] = (stem[0], source_chans, *stem[2:])
    _check_shapes(found, expected, where, full=_shapes(state_dict))
    if other_head:
        _logger.warning(
            "%s: classifier not loaded: the file has %s classes, %s were asked for", where, file_classes, classes
        )
    if cfg.get("state_dict") and model.conv_stem.weight.is_meta:
        return {k: v.clone() for k, v in state_dict.items()}  # the caller's own tensors
    return state_dict


def check_state(model: nn.Module, state_dict: Mapping[str, Any], strict: bool) -> None:
    """Check what is about to be copied into `model`.

    Raises:
        CheckpointFormatError: A shape differs, a name is missing or unknown (only with `strict`), a value is not
            finite, or a variance is negative.
    """
    path = _argument_of_caller("load_checkpoint", "checkpoint_path")
    where = str(path or "state_dict")
    if path:
        _check_config(_config_beside(Path(path)), model, where)
    expected, found = _shapes(model.state_dict()), _shapes(state_dict)
    if not strict:
        shared = expected.keys() & found.keys()
        expected, found = ({k: d[k] for k in shared} for d in (expected, found))
    _check_shapes(found, expected, where, full=_shapes(state_dict))
    for key in expected.keys() & found.keys():
        _check_values(key, state_dict[key], where)


def placed(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return `state_dict` as a `model` without values can take it over: its dtypes, on the default device.

    Weights of a safetensors file stay the private memory map that they are: training writes into copies of its pages.
    """
    device = torch.get_default_device()
    own = model.state_dict()
    counters = {k: torch.zeros_like(v, device=device) for k, v in own.items() if k.endswith("num_batches_tracked")}
    return counters | {k: v.to(device, own[k].dtype) if k in own else v for k, v in state_dict.items()}


def modules_without_values(model: nn.Module) -> list[nn.Module]:
    """Return the modules that a load left without values, e.g. the classifier of other classes."""
    return [m for m in model.modules() if any(p.is_meta for p in m.parameters(recurse=False))]


def check_readable_checkpoint() -> None:
    """Open the file of `create_model(checkpoint_path=…)`, if that is what is calling, before timm reads it."""
    path = _argument_of_caller("create_model", "checkpoint_path")
    if path is None or not Path(path).is_file():
        return
    with explained(str(path)):
        if str(path).endswith(".safetensors"):
            with safe_open(path, framework="pt"):
                pass
        else:
            load_state_dict(str(path))


@contextmanager
def explained(model_name: str) -> Iterator[None]:
    """Turn the errors of safetensors, torch and the Hub client into one line that says what to do."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile) as err:
        raise CheckpointFormatError(f"{model_name}: the weight file is cut or is no weight file ({err})") from err
    except RepositoryNotFoundError as err:
        raise EffNetExtError(f"{model_name}: {hub_answer(err)}. Check the name, or log in: hf auth login.") from err
    except LocalEntryNotFoundError as err:
        raise EffNetExtError(
            f"{model_name}: its weights are not in the cache and {hub_answer(err.__cause__)}. "
            "Connect once to fetch them, or name a folder: timm.create_model('local-dir:FOLDER', pretrained=True)."
        ) from err
    except EntryNotFoundError as err:
        raise EffNetExtError(f"{model_name}: the repository has no weight file: {hub_answer(err)}") from err
    except HUB_ERRORS as err:
        raise EffNetExtError(f"{model_name}: the download failed: {hub_answer(err)}") from err
    except OSError as err:
        if "Consistency check failed" not in str(err):  # the client's words for a download of another length
            raise
        raise EffNetExtError(f"{model_name}: the download failed: {first_line(err)}") from err
    except RuntimeError as err:
        text = str(err)
        if "PytorchStreamReader" in text or "Invalid magic number" in text:
            raise CheckpointFormatError(f"{model_name}: the weight file is cut or damaged ({first_line(err)})") from err
        if "weights_only" in text:
            raise CheckpointFormatError(
                f"{model_name}: the weight file is no plain state_dict: it is foreign, damaged, or holds other Python "
                "objects, which are never loaded. Convert it: python -m timm_effnet_ext convert FILE -o FOLDER."
            ) from err
        raise


def _check_shapes(
    found: dict[str, tuple[int, ...]],
    expected: dict[str, tuple[int, ...]],
    where: str,
    full: dict[str, tuple[int, ...]],
) -> None:
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    # Files written before PyTorch 0.4.1 have no counters; a counter carries no weight.
    missing = {k for k in missing if not k.endswith("num_batches_tracked")}
    differ = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    if not (missing or unknown or differ):
        return
    fits = "; ".join(str(m) for m in identify_state(full))
    if differ == [k for k in ("classifier.bias", "classifier.weight") if k in differ] and not missing and not unknown:
        have, want = found[differ[0]][0], expected[differ[0]][0]
        raise CheckpointFormatError(
            f"{where}: the classifier has {have} classes, the model {want}. Pass num_classes={have}."
        )
    if fits:
        hint = f"It fits {fits}."
    elif missing and not differ and not unknown:
        hint = "The file is incomplete."
    else:
        hint = "It fits none of the 26 architectures; if it is a TensorFlow, Keras or foreign file, convert it first."
    parts = []
    if differ:
        k = differ[0]
        parts.append(f"{len(differ)} shapes differ (first {k}: {found[k]}, expected {expected[k]})")
    if missing:
        parts.append(f"{len(missing)} names missing ({first_few(missing, 2)})")
    if unknown:
        parts.append(f"{len(unknown)} names unknown ({first_few(unknown, 2)})")
    raise CheckpointFormatError(f"{where}: the weights are another model's. {hint} {'; '.join(parts)}")


def _check_values(key: str, value: Tensor, where: str) -> None:
    if not value.is_floating_point() or value.is_meta:
        return
    # A sum is finite only if every value is, and is several times faster to have; it may overflow, so it only acquits.
    if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise CheckpointFormatError(f"{where}: {key} has {count} values that are not finite (of {value.numel()})")
    if key.endswith("running_var") and bool((value < 0).any()):
        raise CheckpointFormatError(f"{where}: {key} has a negative variance ({value.min().item():.4g})")


def _check_config(config: dict[str, Any] | None, model: Any, where: str) -> None:
    """Compare what the source says of itself with what the model computes."""
    if not config or not isinstance(config.get("architecture"), str):
        return
    ours = model.pretrained_cfg["architecture"].removeprefix(PREFIX)
    theirs = config["architecture"]
    if theirs not in (PREFIX + ours, f"tf_{ours}"):
        raise CheckpointFormatError(
            f"{where}: its config.json names {theirs!r}, whose weights may have these shapes but not this padding, "
            f"BN eps or activation. {PREFIX}{ours} takes weights of {PREFIX}{ours} and tf_{ours}."
        )
    saved = config.get("model_args") or {}
    actual = model.numerics
    for name, default in _NUMERICS.items():
        have, want = saved.get(name, default), actual[name]
        if have == want:
            continue
        if want == default:
            raise CheckpointFormatError(
                f"{where}: its config.json says {name}={have!r}, the model has {want!r}: other numbers from the same "
                f"weights. Create it with {name}={have!r}, or as local-dir:/hf-hub: so that the config is followed."
            )
        _logger.warning("%s: %s=%r was asked for, the weights were trained with %r", where, name, want, have)


def _source(cfg: Mapping[str, Any]) -> str:
    if cfg.get("state_dict"):
        return "state_dict"
    return str(cfg.get("file") or cfg.get("hf_hub_id") or cfg.get("url") or "weights")


def _check_download(cfg: Mapping[str, Any], where: str) -> None:
    """Raise unless weights that this process has downloaded have the sha256 that the Hub announced.

    The Hub's client compares the length only. It names a large file in its cache after its sha256.
    """
    repo, place = _in_cache(cfg)
    for name in _WEIGHT_FILES:
        link = try_to_load_from_cache(repo, name, **place)
        if not isinstance(link, str):
            continue
        path = Path(link).resolve()
        if _SHA256.fullmatch(path.name) and path.stat().st_mtime >= _STARTED and sha256(path) != path.name:
            path.unlink()
            raise CheckpointFormatError(
                f"{where}: {name} arrived with another sha256 than the Hub announced. Try again"
            )


def _in_cache(cfg: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the repository of a cfg, and where the client's functions find it."""
    repo, _, revision = cfg["hf_hub_id"].partition("@")
    return repo, {"revision": revision or None, "cache_dir": _argument_of_caller("load_pretrained", "cache_dir")}


def _source_config(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config.json that lies beside the weights, or None."""
    if cfg.get("state_dict"):
        return None
    if cfg.get("file"):
        return _config_beside(Path(cfg["file"]))
    if cfg.get("hf_hub_id"):
        repo, where = _in_cache(cfg)
        # The cache knows the commit that the weights have just come from: whether it has a config need not be asked
        # twice, least of all of a Hub that is down, for which the client would wait half a minute.
        path = try_to_load_from_cache(repo, "config.json", **where)
        if path is not None and not isinstance(path, str):
            return None  # known not to be there
        try:
            return _read_config(Path(path or hf_hub_download(repo, "config.json", **where)))
        except (EntryNotFoundError, *HUB_ERRORS):
            return None  # the weights were had: a repository without config.json
    return None


def _config_beside(weights: Path) -> dict[str, Any] | None:
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    return _read_config(path) if path.is_file() else None


def _argument_of_caller(function: str, name: str) -> Any:
    """Return the local `name` of timm's `function` that is calling us, or None.

    timm reads `checkpoint_path=` itself and hands us a bare state_dict: this is the only way to know which file it
    came from, hence to name the file in errors and to see the config beside it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__", "").startswith("timm."):
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointFormatError(f"{path}: not readable as JSON ({err})") from err
    if not isinstance(config, dict):
        raise CheckpointFormatError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    wrong = [k for k, v in state_dict.items() if not isinstance(v, Tensor)]
    if wrong:
        raise CheckpointFormatError(f"not a state_dict: {len(wrong)} entries are no tensors ({first_few(wrong, 3)})")
    return {k: tuple(v.shape) for k, v in state_dict.items()}
