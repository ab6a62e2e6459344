"""Publishes a converted folder on the Hub: one commit, and what lies there is compared before it is called done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import BadRequestError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from timm_effnet_ext import __version__
from timm_effnet_ext.convert.pipeline import CARD_FILE, FILES, RECORD_FILE, read_record
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, VerificationError, first_few, first_line
from timm_effnet_ext.files.hub import hub_answer, hub_error, retry
from timm_effnet_ext.files.hub_format import WEIGHTS_FILE

MAIN = "main"


@dataclass(frozen=True)
class Target:
    """Where to publish: `USER/REPO`, and how.

    Args:
        repo_id: Repository; made if it is not there.
        private: Make it private. One that is public already is refused, not changed.
        create_pr: Open a pull request instead of writing to the branch.
        revision: Branch; made from main if it is not there.
    """

    repo_id: str
    private: bool = False
    create_pr: bool = False
    revision: str = MAIN

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as err:
            raise EffNetExtError(f"{self.repo_id}: no name for a repository: {first_line(err)}") from err
        if self.repo_id.count("/") != 1:
            raise EffNetExtError(f"{self.repo_id}: no name for a repository, expected USER/REPO")


class Published(NamedTuple):
    """What lies on the Hub now, compared with the folder file by file."""

    url: str
    commit: str
    is_private: bool
    is_new: bool  # False: the same files were there already, and no commit was made


def files_to_publish(folder: str | Path) -> tuple[CommitOperationAdd, ...]:
    """Return the files of a converted folder that may be published, each with its size and sha256.

    Raises:
        CheckpointFormatError: No folder that `convert` wrote, or damaged since.
        VerificationError: Converted without verification.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointFormatError(f"{folder}: no folder that convert wrote: {first_few(missing)} not there")
    record = read_record(folder)
    if not record["verified"]:
        raise VerificationError(
            f"{folder}: was not verified, so it is not published. Convert it again without --no-verify, and with "
            "photos (--images FOLDER, or scikit-learn installed)"
        )
    found = tuple(CommitOperationAdd(name, folder.absolute() / name) for name in FILES)
    if found[0].upload_info.sha256.hex() != record.get("weights_sha256"):
        raise CheckpointFormatError(f"{folder / WEIGHTS_FILE}: was changed after it was verified. Convert it again")
    return found


def publish(folder: str | Path, target: Target) -> Published:
    """Publish a converted folder and return what lies on the Hub then.

    A Hub that stumbles is asked again; an upload whose answer was lost is looked for before it is repeated.

    Raises:
        EffNetExtError: No token, no permission, or a Hub that refuses; says whether the repository was made.
        CheckpointFormatError, VerificationError: The folder must not be published, or the Hub holds other bytes.
    """
    folder, files = Path(folder), files_to_publish(folder)
    api = _api(token())
    with _explain(target):
        is_private, made = _repository(api, target)
    try:
        with _explain(target):
            if target.revision != MAIN and not target.create_pr and not target.revision.startswith("refs/"):
                retry(lambda: api.create_branch(target.repo_id, branch=target.revision, exist_ok=True))
            found = retry(lambda: _commit(api, target, folder, files, is_private), once=target.create_pr)
            _compare(api, target, folder, found)
    except EffNetExtError as err:
        if made:
            raise type(err)(f"{err} The repository was made before that; nothing in it is announced as done.") from err
        raise
    return found


def published_record(repo_id: str) -> dict[str, Any] | None:
    """Return the conversion.json of a repository's main branch, or None where there is no finished conversion.

    Raises:
        EffNetExtError: The Hub does not say.
    """
    api, target = _api(get_token()), Target(repo_id)
    with _explain(target):
        try:
            info = retry(lambda: api.model_info(repo_id, revision=MAIN))
        except RepositoryNotFoundError:
            return None
        if not set(FILES) <= {file.rfilename for file in info.siblings or ()}:
            return None
        path = retry(lambda: api.hf_hub_download(repo_id, RECORD_FILE, revision=info.sha))
    try:
        return read_record(Path(path).parent)
    except CheckpointFormatError:
        return None


def token() -> str:
    """Return the user's token, as the Hub's client finds it.

    Raises:
        EffNetExtError: There is none.
    """
    found = get_token()
    if found is None:
        raise EffNetExtError("no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN")
    return found


def _api(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="timm_effnet_ext", library_version=__version__)


def _repository(api: HfApi, target: Target) -> tuple[bool, bool]:
    """Return whether the repository is private and whether it had to be made."""
    try:
        is_private = bool(retry(lambda: api.model_info(target.repo_id)).private)
    except RepositoryNotFoundError:
        if target.create_pr:
            raise
        retry(lambda: api.create_repo(target.repo_id, private=target.private, exist_ok=True))
        return target.private, True
    if target.private and not is_private:
        raise EffNetExtError(
            f"{target.repo_id}: is public already. Leave out --private, name another repository, or make it private "
            "in its settings"
        )
    return is_private, False


def _commit(
    api: HfApi, target: Target, folder: Path, files: tuple[CommitOperationAdd, ...], is_private: bool
) -> Published:
    """Make the one commit, unless the branch holds these very files."""
    head = api.model_info(target.repo_id, revision=target.revision).sha
    assert head is not None  # every branch has a commit
    url = f"{api.endpoint}/{target.repo_id}" + ("" if target.revision == MAIN else f"/tree/{target.revision}")
    if not _differing(api, target.repo_id, head, folder):
        return Published(url, head, is_private, is_new=False)
    info = api.create_commit(
        target.repo_id,
        [copy(file) for file in files],  # the client marks those that it has sent
        commit_message=f"Upload weights converted by timm_effnet_ext {__version__}",
        revision=target.revision,
        create_pr=target.create_pr,
        parent_commit=None if target.create_pr else head,  # two at once: the second is refused, not mixed
    )
    return Published(info.pr_url or url, info.oid, is_private, is_new=True)


def _compare(api: HfApi, target: Target, folder: Path, found: Published) -> None:
    differing = _differing(api, target.repo_id, found.commit, folder)
    if differing:
        raise VerificationError(
            f"{target.repo_id}: the Hub holds other bytes than were sent for {first_few(differing)} "
            f"(commit {found.commit}). Do not use it; push again."
        )


def _differing(api: HfApi, repo_id: str, commit: str, folder: Path) -> list[str]:
    """Return the names of files that are not the same in a commit and in the folder.

    The client tries again by itself, and would take a "~" at the beginning of a path for a home.
    """
    found = api.verify_repo_checksums(repo_id, revision=commit, local_dir=folder.absolute())
    differing = {*found.extra_paths, *found.missing_paths, *(file["path"] for file in found.mismatches)}
    return [name for name in FILES if name in differing]


@contextmanager
def _explain(target: Target) -> Iterator[None]:
    """Turn the client's errors into one line that says what to do."""
    try:
        yield
    except EffNetExtError:
        raise
    except Exception as err:
        found = hub_error(err)
        if found is None:
            raise
        if isinstance(found, BadRequestError) and type(err) is ValueError:  # it has the Hub's reasons
            raise EffNetExtError(f"{target.repo_id}: {CARD_FILE} was refused: {' '.join(str(err).split())}") from err
        raise EffNetExtError(f"{target.repo_id}: {hub_answer(found)}. {_advice(found, target)}") from err


def _advice(err: BaseException, target: Target) -> str:
    if isinstance(err, OfflineModeIsEnabled):
        return "Unset it."
    if isinstance(err, RepositoryNotFoundError) and target.create_pr:
        return "A pull request needs a repository that is there and that you may see."
    status = getattr(getattr(err, "response", None), "status_code", None)
    if status == 401:
        return "Is the token right? Log in again with `hf auth login`."
    if status == 403:
        return f"May your token write to {target.repo_id}? It needs write access; --create-pr proposes instead."
    if status == 412:
        return "Someone else committed meanwhile. Push again."
    if target.create_pr:
        return "Look at the repository's pull requests before you push again: it may have been opened."
    return "Push again later: what is there already is not sent twice."
