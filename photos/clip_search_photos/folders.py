"""Where `clip-search up` keeps what it makes, by the XDG base directory specification; makes nothing itself.

    $XDG_CACHE_HOME/clip-search/bundles/MODEL/     the exported model; may be deleted, and is then exported anew
    $XDG_DATA_HOME/clip-search/photos/MODEL/       what is indexed
    $XDG_STATE_HOME/clip-search/photos/MODEL/      logs of the server and the page

The variables default to ~/.cache, ~/.local/share and ~/.local/state. MODEL is the model's name as a folder's; vectors
of different models never meet.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Folders"]

#: Models that are known by these names even where a folder is called so.
_DEMOS = ("demo", "demo-vit")
_PLAIN_CHARACTERS_MAX = 80
_DIGEST_CHARACTERS = 8


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one model."""

    bundle: Path
    data: Path
    logs: Path

    @classmethod
    def of(cls, model: str) -> "Folders":
        """Give the folders of a model, as it is named on the command line."""
        name = _folder_name(model)
        return cls(
            bundle=_base("XDG_CACHE_HOME", ".cache") / "bundles" / name,
            data=_base("XDG_DATA_HOME", ".local/share") / "photos" / name,
            logs=_base("XDG_STATE_HOME", ".local/state") / "photos" / name,
        )


def _base(variable: str, otherwise: str) -> Path:
    given = Path(os.environ.get(variable, ""))
    return (given if given.is_absolute() else Path.home() / otherwise) / "clip-search"


def _folder_name(model: str) -> str:
    """Give a name that tells the model, and no other: folders are named by their absolute path."""
    path = Path(model).expanduser()
    whole = str(path.resolve()) if model not in _DEMOS and path.is_dir() else model
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", whole).strip("-.")[-_PLAIN_CHARACTERS_MAX:]
    if plain and plain == whole:
        return plain
    return f"{plain}-{hashlib.sha256(whole.encode('utf-8', 'replace')).hexdigest()[:_DIGEST_CHARACTERS]}"
