"""A web server of a few files, such as the one that Google's checkpoints lie on."""

from __future__ import annotations

import hashlib

from tests.faulty_server import Handler, Service


class _FileHandler(Handler):
    def respond(self, path: str) -> None:
        """Send a file; a Range counts only if its If-Range names this version."""
        assert "Authorization" not in self.headers  # the Hub's token is none of its business
        raw = self.service.files.get(path.strip("/"))
        if raw is None:
            self.refuse(404)
            return
        etag = f'"{hashlib.md5(raw).hexdigest()}"'
        self.send_file(
            raw,
            {"ETag": etag, "Content-Type": "application/octet-stream"},
            may_continue=self.service.continues and self.headers.get("If-Range", etag) == etag,
        )


class FileServer(Service):
    """Files by their path."""

    handler = _FileHandler

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.continues = True  # answers Range requests
