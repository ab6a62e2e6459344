"""How a model on the Hub is named: hf-hub:USER/REPO[@REVISION][/PATH], which is timm's way and the client's at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from timm_effnet_ext.errors import EffNetExtError

if TYPE_CHECKING:
    from huggingface_hub import HfUri

HUB_PREFIX = "hf-hub:"

_PREFIX = re.compile("hf[-_]hub:", re.IGNORECASE)  # timm/models/_factory.py `parse_model_name`
_CLIENTS, _MODELS = "hf://", "hf://models/"


class HubName(NamedTuple):
    """A repository, a state of it (its main branch if None), and a file or folder in it ("" for its root)."""

    repo_id: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        return HUB_PREFIX + self._uri.to_uri().removeprefix(_MODELS)

    @property
    def url(self) -> str:
        """The page that shows it."""
        return self._uri.to_url()

    @property
    def _uri(self) -> HfUri:
        from huggingface_hub import HfUri  # slow to import

        return HfUri("model", *self)


def is_hub_name(text: str | Path) -> bool:
    """Whether a text names something on the Hub, rightly or not; a file of such a name is `./hf-hub:…`."""
    return _PREFIX.match(str(text)) is not None


def parse_hub_name(text: str | Path) -> HubName:
    """Return what `hf-hub:USER/REPO[@REVISION][/PATH]` names.

    A `/` in a revision is written `%2F`, but in `refs/pr/1`.
    Source: huggingface_hub/utils/_hf_uris.py, whose hf:// addresses go on like this.

    Raises:
        EffNetExtError: It is no such name, or one of a dataset or space.
    """
    from huggingface_hub import parse_hf_uri  # slow to import
    from huggingface_hub.errors import HfUriError

    try:
        found = parse_hf_uri(_CLIENTS + _PREFIX.sub("", str(text), count=1))
    except HfUriError as err:
        why = str(err).partition("'. ")[2].strip(" .").replace(_CLIENTS, HUB_PREFIX)
        raise EffNetExtError(f"{text}: expected {HUB_PREFIX}USER/REPO[@REVISION][/PATH]: {why}") from err
    if found.type != "model":
        raise EffNetExtError(f"{text}: is a {found.type}. Weights are taken from a model's repository alone")
    return HubName(found.id, found.revision, found.path_in_repo)
