"""Downloads the files of a checkpoint from the model hub, and no others; knows nothing of what is in them.

Progress bars, resumption, tokens, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are huggingface_hub's own.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from clip_search_export.checkpoints import hf_clip, open_clip
from clip_search_export.checkpoints.tokenizers import TOKENIZER_FILES
from clip_search_export.errors import SourceError

__all__ = ["HUB_ID", "Download", "choose_files", "download_checkpoint"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_SMALL_FILES = ("README.md", *hf_clip.CONFIG_FILES, *open_clip.CONFIG_FILES, *TOKENIZER_FILES)


class Download(NamedTuple):
    """What was downloaded."""

    folder: Path
    revision: str | None
    """The commit that was fetched."""


def download_checkpoint(repository: str, revision: str | None) -> Download:
    """Fetch the files that an export needs, or find them in the local cache when the hub cannot be reached.

    Raises:
        SourceError: unknown or closed repository, unknown revision, or no connection and nothing cached; the last
            message lists the files to copy and where to.
    """
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision)
        names = choose_files([sibling.rfilename for sibling in info.siblings or ()])
        folder = huggingface_hub.snapshot_download(repository, revision=info.sha, allow_patterns=names)
    except GatedRepoError as error:
        raise SourceError(f"{repository} asks for its terms to be accepted on the hub, and for a token.") from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{repository} has no revision {revision!r} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise SourceError(f"{repository} is neither a folder here nor a repository on the hub.") from error
    except HFValidationError as error:
        raise SourceError(f"{repository} is neither a folder here nor a valid hub id.") from error
    except Exception as error:  # noqa: BLE001 - failed connections have as many types as the library had HTTP clients.
        return _find_in_cache(repository, revision, error)
    return Download(Path(folder), info.sha)


def choose_files(available: Collection[str]) -> list[str]:
    """Choose, among a repository's files, those an export needs: of all weight files only the first choice."""
    chosen = [name for name in _SMALL_FILES if name in available]
    layouts = ((hf_clip.CONFIG_FILES[0], hf_clip.WEIGHT_FILES), (open_clip.CONFIG_FILES[0], open_clip.WEIGHT_FILES))
    for config, weight_files in layouts:
        if config not in available:
            continue
        for weights in weight_files:
            if weights in available:
                return [*chosen, weights]
            if f"{weights}.index.json" in available:
                stem = weights.removesuffix(".safetensors")
                shards = sorted(name for name in available if re.fullmatch(rf"{stem}-\d+-of-\d+\.safetensors", name))
                return [*chosen, f"{weights}.index.json", *shards]
    return chosen


def _find_in_cache(repository: str, revision: str | None, reason: Exception) -> Download:
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        weights = " or ".join((*hf_clip.WEIGHT_FILES, open_clip.WEIGHT_FILES[0]))
        raise SourceError(
            f"the hub cannot be reached ({reason}) and {repository} is not in the local cache. On a machine with a "
            f"connection, download config.json with preprocessor_config.json (or open_clip_config.json), "
            f"tokenizer.json and {weights} of {repository}; copy them into one folder here and give that folder as "
            "the source."
        ) from reason
    return Download(folder, folder.name)
