"""What a failed load of weights says to a user, in one line."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from timm.models import load_state_dict

from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, first_few, first_line
from timm_effnet_ext.files.hub_errors import HUB_ERRORS, hub_answer
from timm_effnet_ext.weights.source import argument_of_caller

_REFUSED = re.compile(r"Unsupported globals: (.+?)\. ")  # in timm's words


def check_readable_checkpoint() -> None:
    """Open the file of `create_model(checkpoint_path=…)`, if that is what is calling, before timm reads it."""
    path = argument_of_caller("create_model", "checkpoint_path")
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
        said = first_line(err)
        raise CheckpointFormatError(f"{model_name}: the weight file is cut or is no weight file ({said})") from err
    except RepositoryNotFoundError as err:
        raise EffNetExtError(f"{model_name}: {hub_answer(err)}. Check the name, or log in: hf auth login.") from err
    except LocalEntryNotFoundError as err:
        raise EffNetExtError(
            f"{model_name}: its weights are not in the cache and {hub_answer(err.__cause__)}. "
            "Connect once to fetch them, or name a folder that has them (for timm.create_model 'local-dir:FOLDER')."
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
            named = _REFUSED.search(text)
            held = first_few(named[1].split(", "), 2) if named else "other Python objects"
            raise CheckpointFormatError(
                f"{model_name}: the weight file is no plain state_dict: it is foreign, damaged, or holds {held}, which "
                "are never loaded. Save model.state_dict(), or convert it: python -m timm_effnet_ext convert FILE "
                "-o FOLDER"
            ) from err
        raise
