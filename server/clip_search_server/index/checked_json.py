"""Small JSON files that carry their own digest and format version; knows nothing of what they say.

One JSON object ``{"body": {...}, "sha256": "..."}``, the digest being that of the body written with sorted keys and no
blanks. The body has a `format_version`. Each file appears whole or not at all.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from clip_search_server.errors import DataLossError, FailedPreconditionError
from clip_search_server.index.files import publish_file


def write_checked(path: Path, body: dict[str, Any]) -> None:
    """Publish `body` at `path` durably.

    Raises:
        OSError: the disk refused; what is there then, `publish_file` says.
    """
    text = json.dumps({"body": body, "sha256": _digest(body)}, indent=1)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    publish_file(path, write)


def read_checked(path: Path, *, format_version_max: int) -> dict[str, Any]:
    """Return the body of the file at `path`.

    Raises:
        DataLossError: it is missing or damaged.
        FailedPreconditionError: a newer release wrote it.
    """
    try:
        outer = json.loads(path.read_bytes())
        body: dict[str, Any] = outer["body"]
        if outer["sha256"] != _digest(body):
            raise DataLossError(f"{path} fails its SHA-256 check")
        version = int(body["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataLossError(f"{path} is damaged or unreadable ({type(error).__name__})") from error
    if version > format_version_max:
        raise FailedPreconditionError(
            f"{path} has format {version}, newer than the {format_version_max} this release reads; "
            "use the release that wrote it; nothing was changed"
        )
    return body


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
