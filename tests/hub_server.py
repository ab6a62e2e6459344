"""A small Hugging Face Hub on localhost for tests: repositories, LFS, branches, pull requests, access, faults.

It speaks what `huggingface_hub` asks for without xet. Content lies in a folder by sha256, everything else in memory.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.faulty_server import Handler, Service

USERS = {"hf_alice": "alice", "hf_bob": "bob"}  # token -> who writes below that name
DATE = "2026-01-01T00:00:00.000Z"


class Blob(NamedTuple):
    """One content; LFS content has a pointer in git, which is what `oid` then names."""

    sha256: str
    size: int
    oid: str
    is_lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub gives as ETag, hence the file name in the client's cache."""
        return self.sha256 if self.is_lfs else self.oid


class Commit(NamedTuple):
    """One state of a repository."""

    sha: str
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """A model repository; `refs` are branches, and pull requests as `refs/pr/N`."""

    owner: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, title: str, files: Mapping[str, Blob]) -> Commit:
        """Put a new state on a branch."""
        sha = hashlib.sha1(repr((ref, title, len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha], self.refs[ref] = Commit(sha, title, dict(files)), sha
        return self.commits[sha]

    def at(self, revision: str) -> Commit:
        """Return the state that a branch or a commit hash names."""
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]


class Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}


class LocalHub(Service):
    """The state of one Hub; `url` is the value for HF_ENDPOINT."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(port)
        self.folder = folder
        self.repos: dict[str, Repo] = {}

    def add(
        self, repo_id: str, files: Mapping[str, bytes | Path], *, private: bool = False, gated: bool = False
    ) -> Repo:
        """Create a repository with one commit on main."""
        repo = self.repos[repo_id] = Repo(repo_id.partition("/")[0], private, gated)
        repo.commit("main", "first", {path: self.store(path, content) for path, content in files.items()})
        return repo

    def store(self, path: str, content: bytes | Path) -> Blob:
        """Keep one content; the name says whether it is LFS, as on the real Hub."""
        raw = content if isinstance(content, bytes) else content.read_bytes()
        blob = blob_of(raw, is_lfs=path.endswith((".safetensors", ".bin", ".png")))
        self.content(blob.sha256).write_bytes(raw)
        return blob

    def content(self, sha256: str) -> Path:
        """Return where the content with that hash lies."""
        return self.folder / sha256

    def read(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        """Return what a repository holds."""
        return self.content(self.repos[repo_id].at(revision).files[path].sha256).read_bytes()


def blob_of(raw: bytes, is_lfs: bool) -> Blob:
    """Return the hashes of one content."""
    sha256 = hashlib.sha256(raw).hexdigest()
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(raw)}\n".encode()
    in_git = text if is_lfs else raw
    return Blob(sha256, len(raw), hashlib.sha1(b"blob %d\0%b" % (len(in_git), in_git)).hexdigest(), is_lfs)


class _HubHandler(Handler):
    """One connection; the methods below `ROUTES` names take its groups."""

    service: LocalHub
    query: dict[str, str]
    user: str | None

    def respond(self, path: str) -> None:
        """Find the route of a request and turn refusals into error answers."""
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        try:
            self.user = self.caller()
            for pattern, method in ROUTES:
                found = re.fullmatch(pattern, f"{self.command} {url.path}")
                if found:
                    method(self, **{name: unquote(text or "") for name, text in found.groupdict().items()})
                    return
            raise Refused(404, f"no route: {self.command} {path}")
        except Refused as refusal:
            self.send({"error": str(refusal)}, refusal.status, refusal.headers)

    def caller(self) -> str | None:
        """Return who the token says is calling."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in USERS:
            raise Refused(401, "Invalid credentials in Authorization header")
        return USERS.get(token)

    def send(self, answer: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        """Send JSON."""
        self.rfile.read(self.unread)
        if self.failing and self.failing.lose_answer:
            self.hang_up()
        raw = json.dumps(answer).encode()
        self.start_answer(status, {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers})
        if self.command != "HEAD":
            self.wfile.write(raw)

    def repo(self, name: str, *, write: bool = False) -> Repo:
        """Return a repository that the caller may see or write."""
        repo = self.service.repos.get(name)
        if repo is None or (repo.private and self.user != repo.owner):
            raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and self.user != repo.owner:
            raise Refused(403 if self.user else 401, "You don't have write access")
        return repo

    # reading

    def whoami(self) -> None:
        """Say whose token it is."""
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        self.send({"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}})

    def info(self, name: str, revision: str = "main") -> None:
        """Describe a repository."""
        repo = self.repo(name)
        commit = repo.at(revision or "main")
        self.send(
            {"id": name, "modelId": name, "sha": commit.sha, "private": repo.private, "gated": repo.gated}
            | {"siblings": [{"rfilename": path} for path in sorted(commit.files)], "tags": []}
        )

    def tree(self, name: str, revision: str) -> None:
        """List the files."""
        files = self.repo(name).at(revision).files
        self.send([_entry(path, blob) for path, blob in sorted(files.items())])

    def paths_info(self, name: str, revision: str) -> None:
        """List the files that the body names."""
        files, raw = self.repo(name).at(revision).files, self.body()
        asked = json.loads(raw)["paths"] if raw[:1] == b"{" else [v for k, v in parse_qsl(raw.decode()) if k == "paths"]
        self.send([_entry(path, files[path]) for path in asked if path in files])

    def history(self, name: str, revision: str) -> None:
        """List the newest commit."""
        commit = self.repo(name).at(revision)
        self.send([{"id": commit.sha, "title": commit.title, "message": "", "date": DATE, "authors": []}])

    def references(self, name: str) -> None:
        """List the branches."""
        refs = self.repo(name).refs.items()
        branches = [{"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": sha} for ref, sha in refs]
        self.send({"branches": branches, "converts": [], "tags": []})

    def file(self, name: str, revision: str, path: str) -> None:
        """Send a file, or the part that a Range header names."""
        repo = self.repo(name)
        if repo.gated and self.user != repo.owner:
            raise Refused(403 if self.user else 401, "Access to this model is restricted", "GatedRepo")
        commit = repo.at(revision)
        blob = commit.files.get(path)
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound", commit.sha)
        raw = self.service.content(blob.sha256).read_bytes()
        self.send_file(raw, {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"'})

    # writing

    def create(self) -> None:
        """Make an empty repository."""
        asked = json.loads(self.body())
        owner = asked.get("organization") or self.user
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        if owner != self.user:
            raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        name = f"{owner}/{asked['name']}"
        url = f"{self.service.url}/{name}"
        with self.service.lock:
            if name in self.service.repos:
                self.send({"error": "You already created this model repo", "url": url}, 409)
                return
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            repo = self.service.repos[name] = Repo(self.user, private)
            repo.commit("main", "initial commit", {})
        self.send({"url": url, "name": name})

    def delete(self) -> None:
        """Remove a repository."""
        asked = json.loads(self.body())
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        self.repo(name, write=True)
        del self.service.repos[name]
        self.send({})

    def validate_card(self) -> None:
        """Accept a model card's metadata if it is there."""
        content = json.loads(self.body())["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
        self.send({"errors": errors, "warnings": []}, 400 if errors else 200)

    def new_branch(self, name: str, branch: str) -> None:
        """Make a branch."""
        repo, asked = self.repo(name, write=True), json.loads(self.body() or b"{}")
        if branch in repo.refs:
            raise Refused(409, f"Reference already exists: {branch}")
        repo.refs[branch] = repo.at(asked.get("startingPoint", "main")).sha
        self.send({})

    def preupload(self, name: str, revision: str) -> None:
        """Say which files go to LFS."""
        repo = self.repo(name, write="create_pr" not in self.query)
        commit = repo.at(revision)
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".bin")) else "regular",
                "shouldIgnore": False,
                "oid": commit.files[file["path"]].etag if file["path"] in commit.files else None,
            }
            for file in json.loads(self.body())["files"]
        ]
        self.send({"files": modes, "commitOid": commit.sha})

    def lfs_batch(self, name: str) -> None:
        """Say where to upload what is not there yet."""
        self.repo(name)
        if self.user is None:
            raise Refused(401, "Unauthorized")
        objects = json.loads(self.body())["objects"]
        for item in objects:
            if not self.service.content(item["oid"]).exists():
                item["actions"] = {"upload": {"href": f"{self.service.url}/_lfs/{item['oid']}"}}
        self.send({"transfer": "basic", "objects": objects})

    def lfs_upload(self, sha256: str) -> None:
        """Keep an uploaded file if its hash is the announced one; a fault may damage it afterwards."""
        raw = self.body()
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise Refused(400, "sha256 mismatch")
        part = self.service.content(f"{sha256}.{threading.get_ident()}")
        part.write_bytes(raw)
        shutil.move(part, self.service.content(sha256))
        self.send({})

    def commit(self, name: str, revision: str) -> None:
        """Put files on a branch or into a new pull request, all or none."""
        as_request = "create_pr" in self.query
        repo = self.repo(name, write=not as_request)
        if self.user is None:
            raise Refused(401, "Unauthorized")
        head, *operations = (json.loads(line) for line in self.body().splitlines() if line.strip())
        with self.service.lock:
            parent = repo.at(revision)
            if head["value"].get("parentCommit") not in (None, parent.sha):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(parent.files)
            for operation in operations:
                files.update(self.applied(operation["key"], operation["value"]))
            number = next(n for n in itertools.count(1) if f"refs/pr/{n}" not in repo.refs)
            commit = repo.commit(f"refs/pr/{number}" if as_request else revision, head["value"]["summary"], files)
        pull = {"pullRequestUrl": f"{self.service.url}/{name}/discussions/{number}"} if as_request else {}
        self.send({"commitOid": commit.sha, "commitUrl": f"{self.service.url}/{name}/commit/{commit.sha}", **pull})

    def applied(self, kind: str, value: Mapping[str, Any]) -> dict[str, Blob]:
        """Return what one line of a commit adds."""
        path = value["path"]
        if kind == "file":
            return {path: self.service.store(path, base64.b64decode(value["content"]))}
        if kind != "lfsFile" or not self.service.content(value["oid"]).exists():
            raise Refused(400, f"{kind} of {path}: not known, or points to a file that was not uploaded")
        damaged = self.failing.body if self.failing else None
        raw = self.service.content(value["oid"]).read_bytes() if damaged is None else damaged
        return {path: self.service.store(path, raw)}


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}} if blob.is_lfs else {}
    return {"type": "file", "path": path, "oid": blob.oid, "size": blob.size, **lfs}


_REPO, _REV = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = (
    (r"GET /api/whoami-v2", _HubHandler.whoami),
    (r"POST /api/repos/create", _HubHandler.create),
    (r"DELETE /api/repos/delete", _HubHandler.delete),
    (r"POST /api/validate-yaml", _HubHandler.validate_card),
    (rf"(GET|HEAD) /api/models/{_REPO}(/revision/{_REV})?", _HubHandler.info),
    (rf"(GET|HEAD) /api/models/{_REPO}/tree/{_REV}/?", _HubHandler.tree),
    (rf"(GET|HEAD) /api/models/{_REPO}/commits/{_REV}", _HubHandler.history),
    (rf"GET /api/models/{_REPO}/refs", _HubHandler.references),
    (rf"POST /api/models/{_REPO}/paths-info/{_REV}", _HubHandler.paths_info),
    (rf"POST /api/models/{_REPO}/preupload/{_REV}", _HubHandler.preupload),
    (rf"POST /api/models/{_REPO}/commit/{_REV}", _HubHandler.commit),
    (rf"POST /api/models/{_REPO}/branch/(?P<branch>[^/]+)", _HubHandler.new_branch),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _HubHandler.lfs_batch),
    (r"PUT /_lfs/(?P<sha256>[0-9a-f]{64})", _HubHandler.lfs_upload),
    (rf"(GET|HEAD) /{_REPO}/resolve/{_REV}/(?P<path>.+)", _HubHandler.file),
)
LocalHub.handler = _HubHandler
