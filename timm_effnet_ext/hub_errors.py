"""What an error of the Hub's client says to a user, in one line."""

from __future__ import annotations

from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from timm_effnet_ext.errors import first_line

# What the client raises when the Hub refuses, breaks off or cannot be reached: `HTTPError` is its HTTP library's root.
HUB_ERRORS = (HTTPError, OfflineModeIsEnabled)
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses that another attempt may not meet again


def hub_answer(err: BaseException | None) -> str:
    """Return what went wrong as a clause that begins with "the Hub"."""
    if isinstance(err, RepositoryNotFoundError):
        repo = f"repository {err.repo_id!r}" if getattr(err, "repo_id", None) else "such repository"
        return f"the Hub shows no {repo}: it does not exist, or it is private or gated and needs a token that opens it"
    if isinstance(err, HfHubHTTPError):
        said = " ".join((err.server_message or "").split())
        return f"the Hub answered {err.response.status_code}{said and f' ({said})'} for {err.response.url.path}"
    if isinstance(err, OfflineModeIsEnabled):
        return "the Hub was not asked: HF_HUB_OFFLINE is set"
    return f"the Hub cannot be reached{f' ({first_line(err)})' if err else ''}"
