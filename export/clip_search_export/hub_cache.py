"""Fetches large files of a hub repository into the local cache, going on where a broken download stopped.

Knows nothing of which files are needed. The cache is huggingface_hub's own and is laid out as its documentation says:

    models--OWNER--NAME/blobs/ETAG              a file's content
    models--OWNER--NAME/blobs/ETAG.incomplete   as much as has come so far
    models--OWNER--NAME/snapshots/COMMIT/FILE   a link to a blob

huggingface_hub resumes within one process only, and not after every kind of break; a download of hours needs more. So
the blob is fetched here, with its functions for addresses, tokens, requests and progress bars, and linked by it.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from clip_search_export.disk import megabytes
from clip_search_export.errors import SourceError

__all__ = ["Progress", "cache_folder", "fetch_large_file"]

Progress = Callable[[str], None]
"""Is told each step as it starts, in a few words."""

_ATTEMPTS_MAX = 100
_IDLE_ATTEMPTS_MAX = 3
"""How many attempts in a row may bring nothing; each consists of several tries of huggingface_hub's, a second apart."""
_SERVER_ERROR = 500
_ETAG = re.compile(r"[\w-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """Return the folder that holds all cached repositories: `HF_HUB_CACHE`, or `hub` in `HF_HOME`."""
    return Path(constants.HF_HUB_CACHE)


def fetch_large_file(repository: str, name: str, commit: str, progress: Progress) -> Path:
    """Bring one file into the cache, or find it there, and return its path in the snapshot of `commit`.

    Raises:
        SourceError: the disk has no room, the connection broke for good, or what came is damaged.
        HfHubHTTPError: the hub refuses the file.
    """
    folder = cache_folder() / repo_folder_name(repo_id=repository, repo_type="model")
    linked = folder / "snapshots" / commit / name
    if linked.is_file():
        return linked
    url = hf_hub_url(repository, name, revision=commit)
    metadata = get_hf_file_metadata(url)
    if metadata.etag is None or not _ETAG.fullmatch(metadata.etag):
        raise SourceError(f"{url} has no usable ETag: HF_ENDPOINT does not lead to a model hub.")
    blob = folder / "blobs" / metadata.etag
    lock = cache_folder() / ".locks" / folder.name / f"{metadata.etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not blob.exists():
            partial = blob.with_name(f"{blob.name}.incomplete")
            _download(url, partial, name, metadata.size, progress)
            _check_digest(partial, name, metadata.etag)
            partial.replace(blob)
    return Path(hf_hub_download(repository, name, revision=commit))


def _download(url: str, partial: Path, name: str, size_bytes: int | None, progress: Progress) -> None:
    idle = 0
    for _ in range(_ATTEMPTS_MAX):
        start = _present_bytes(partial, size_bytes)
        _check_room(partial, name, start, size_bytes)
        progress(_describe(name, start, size_bytes))
        try:
            with partial.open("ab") as file:
                http_get(
                    url,
                    file,
                    resume_size=start,
                    headers=build_hf_headers(),
                    expected_size=size_bytes,
                    displayed_filename=name,
                )
        except Exception as error:
            if not _is_transient(error):
                raise
            idle = 0 if _present_bytes(partial, size_bytes) > start else idle + 1
            if idle == _IDLE_ATTEMPTS_MAX:
                raise _broken(name, partial, size_bytes, error) from error
            time.sleep(2**idle)
        else:
            return
    raise SourceError(f"the connection broke {_ATTEMPTS_MAX} times while {name} came: run the command again to go on.")


def _present_bytes(partial: Path, size_bytes: int | None) -> int:
    """Return how much is there already; more than the whole is no beginning of it and is removed."""
    present = partial.stat().st_size if partial.exists() else 0
    if size_bytes is not None and present > size_bytes:
        partial.unlink()
        return 0
    return present


def _check_room(partial: Path, name: str, start: int, size_bytes: int | None) -> None:
    needed, free = (size_bytes or 0) - start, shutil.disk_usage(partial.parent).free
    if needed > free:
        raise SourceError(
            f"{name} needs {megabytes(needed)} more and {cache_folder()} has {megabytes(free)} free: make room, or "
            "set HF_HOME to a folder on another disk."
        )


def _is_transient(error: Exception) -> bool:
    """Tell whether another attempt may help: of a server's fault and a broken connection, not of a local failure."""
    if isinstance(error, HfHubHTTPError):
        return int(getattr(error.response, "status_code", 0)) >= _SERVER_ERROR
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, ConnectionError)


def _broken(name: str, partial: Path, size_bytes: int | None, reason: Exception) -> SourceError:
    present = _present_bytes(partial, size_bytes)
    whole = f" of {megabytes(size_bytes)}" if size_bytes is not None else ""
    return SourceError(
        f"the connection to the hub broke when {megabytes(present)}{whole} of {name} had come "
        f"({type(reason).__name__}): run the command again and it goes on from there."
    )


def _check_digest(partial: Path, name: str, etag: str) -> None:
    """Compare with the ETag, which for a large file is the SHA-256 of its content."""
    if not _SHA256.fullmatch(etag):
        return
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != etag:
        partial.unlink()
        raise SourceError(f"{name} was damaged on its way from the hub and has been removed: run the command again.")


def _describe(name: str, start: int, size_bytes: int | None) -> str:
    size = "" if size_bytes is None else f" ({megabytes(size_bytes)})"
    return f"downloading {name}{size}" + (f", going on at {megabytes(start)}" if start else "")
