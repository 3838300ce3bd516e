"""Downloads the files of a checkpoint from the model hub, and no others; knows nothing of what is in the weights.

Small files come first; the configurations among them decide which of several sets of weights is fetched
(`weight_files`). The revision is resolved to a commit once, and every file is of that commit. Tokens, `HF_ENDPOINT`,
`HF_HUB_OFFLINE`, `HF_HOME` and progress bars are huggingface_hub's own.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from clip_search_export.checkpoints import hf_clip, open_clip
from clip_search_export.checkpoints.layouts import find_layouts
from clip_search_export.checkpoints.tokenizers import TOKENIZER_FILES
from clip_search_export.disk import is_disk_full, megabytes
from clip_search_export.errors import ExportError, SourceError
from clip_search_export.files.weight_files import (
    HUGGING_FACE_WEIGHTS,
    INDEX_SUFFIX,
    OPEN_CLIP_WEIGHTS,
    Layout,
    WeightSet,
    choose_weights,
    read_shard_index,
)
from clip_search_export.hub_cache import Progress, cache_folder, fetch_large_file
from clip_search_export.licence import read_licence

__all__ = ["HUB_ID", "Download", "download_checkpoint"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_CONFIG_FILES = (hf_clip.CONFIG_FILES[0], open_clip.CONFIG_FILES[0])
_SMALL_FILES = ("README.md", *hf_clip.CONFIG_FILES, *open_clip.CONFIG_FILES, *TOKENIZER_FILES)
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".npz", ".onnx")
_REASON_CHARACTERS_MAX = 200
_REFUSED_STATUSES = (401, 403)


class Download(NamedTuple):
    """What was downloaded."""

    folder: Path
    revision: str
    """The commit that was fetched."""


def download_checkpoint(
    repository: str, revision: str | None, progress: Progress, layout: Layout | None = None
) -> Download:
    """Fetch the files that an export needs, or find them in the local cache when the hub cannot be reached.

    Args:
        repository: `owner/name`.
        revision: a branch, tag or commit; None is the main branch.
        progress: is told each large file as it starts, and that the cache is used.
        layout: the one that the weights must be of; None takes the preferred of those whose configuration is there.

    Raises:
        SourceError: unknown or closed repository, unknown revision, no weights that can be read, no room; or no
            connection and nothing cached, with the files to copy and where to.
    """
    try:
        return _download(repository, revision, progress, layout)
    except ExportError:
        raise
    except GatedRepoError as error:
        raise SourceError(
            f"{repository} is gated: accept its terms at {constants.ENDPOINT}/{repository} and set HF_TOKEN to a token "
            "of the account that did."
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{repository} has no revision {revision!r} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"{repository} is neither a folder here nor a repository that the hub shows: check the name; if it is "
            "private, set HF_TOKEN to a token that may read it."
        ) from error
    except HFValidationError as error:
        raise SourceError(f"{repository} is neither a folder here nor a valid hub id.") from error
    except Exception as error:  # noqa: BLE001 - failed connections have as many types as the library had HTTP clients.
        _raise_if_hopeless(repository, error)
        return _find_in_cache(repository, revision, error, progress, layout)


def _download(repository: str, revision: str | None, progress: Progress, layout: Layout | None) -> Download:
    info = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
    sizes_bytes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
    available = set(sizes_bytes)
    if not available.intersection(_CONFIG_FILES):
        raise SourceError(f"{repository} holds neither {' nor '.join(_CONFIG_FILES)}: it is no checkpoint of CLIP.")
    # By the name of the revision, so that the cache notes which commit it was for a later run without a connection.
    folder = _fetch_small_files(repository, revision, available.intersection(_SMALL_FILES))
    if folder.name != info.sha:
        raise SourceError(f"{repository} was changed on the hub a moment ago: run the command again.")
    weights = choose_weights(available, _layouts(folder, layout))
    if weights is None:
        raise SourceError(_describe_unreadable(repository, available))
    if weights.sharded:
        _fetch_small_files(repository, info.sha, {f"{weights.name}{INDEX_SUFFIX}"})
    names = _weight_names(folder, weights)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        progress(_announce(repository, read_licence(folder), [sizes_bytes.get(name) for name in missing]))
    for name in names:
        if name not in available:
            raise SourceError(f"{repository} has no {name}, although its {weights.name}{INDEX_SUFFIX} says so.")
        fetch_large_file(repository, name, folder.name, progress)
    return Download(folder, folder.name)


def _announce(repository: str, licence: str | None, sizes_bytes: Sequence[int | None]) -> str:
    """Say what is about to be downloaded; a mirror may not tell sizes."""
    sizes = [size for size in sizes_bytes if size is not None]
    amount = megabytes(sum(sizes)) if len(sizes) == len(sizes_bytes) else "weights"
    return f"{amount} to download; the licence of {repository} is {licence or 'not told'}"


def _layouts(folder: Path, wanted: Layout | None) -> tuple[Layout, ...]:
    return find_layouts(folder) if wanted is None else (wanted,)


def _fetch_small_files(repository: str, revision: str | None, names: Collection[str]) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=sorted(names), tqdm_class=_HiddenBar
        )
    )


class _HiddenBar(tqdm):
    """A progress bar that is not shown: small files are there before one could be read."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401 - tqdm's own.
        super().__init__(*arguments, **{**settings, "disable": True})  # type: ignore[no-untyped-call]


def _weight_names(folder: Path, weights: WeightSet) -> list[str]:
    if not weights.sharded:
        return [weights.name]
    return sorted(set(read_shard_index(folder / f"{weights.name}{INDEX_SUFFIX}").values()))


def _describe_unreadable(repository: str, available: Collection[str]) -> str:
    looked_for = ", ".join(dict.fromkeys((*HUGGING_FACE_WEIGHTS, *OPEN_CLIP_WEIGHTS)))
    found = ", ".join(sorted(name for name in available if name.endswith(_WEIGHT_SUFFIXES))) or "none"
    return f"{repository} holds no weights that can be read; looked for {looked_for}; found {found}."


def _raise_if_hopeless(repository: str, error: Exception) -> None:
    """Raise for what a cached copy would not mend: a refused token, a cache that cannot be written."""
    if getattr(getattr(error, "response", None), "status_code", None) in _REFUSED_STATUSES:
        raise SourceError(
            f"the hub refuses to show {repository} to the token it was given: set HF_TOKEN to one that is valid and "
            "may read it, or unset it if the repository is public."
        ) from error
    if is_disk_full(error):
        raise SourceError(
            f"the disk of {cache_folder()} is full: make room, or set HF_HOME to a folder on another disk."
        ) from error
    if isinstance(error, PermissionError):
        raise SourceError(
            f"{cache_folder()} cannot be written ({error.strerror}): set HF_HOME to a folder that can."
        ) from error


def _find_in_cache(
    repository: str, revision: str | None, reason: Exception, progress: Progress, layout: Layout | None
) -> Download:
    """Return the cached snapshot if it is whole: weights come last, so that with them everything is there."""
    folder = _cached_folder(repository, revision)
    text = " ".join(str(reason).split())[:_REASON_CHARACTERS_MAX] or type(reason).__name__
    if folder is not None and _is_whole(folder, layout):
        progress(f"the hub cannot be reached: using commit {folder.name} from the cache")
        return Download(folder, folder.name)
    address = f"{constants.ENDPOINT}/{repository}/tree/{revision or 'main'}"
    raise SourceError(
        f"the hub cannot be reached ({text}) and {repository} is not in the local cache. On a machine with a "
        f"connection, download {_list_files()} from {address}; copy them into one folder here and give that folder as "
        "the source."
    ) from reason


def _cached_folder(repository: str, revision: str | None) -> Path | None:
    for name in _CONFIG_FILES:
        path = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _is_whole(folder: Path, layout: Layout | None) -> bool:
    weights = choose_weights([path.name for path in folder.iterdir()], _layouts(folder, layout))
    return weights is not None and all((folder / name).is_file() for name in _weight_names(folder, weights))


def _list_files() -> str:
    hugging_face = f"{', '.join(hf_clip.CONFIG_FILES[:2])}, {TOKENIZER_FILES[0]} and {HUGGING_FACE_WEIGHTS[0]}"
    return f"{hugging_face} (or {_CONFIG_FILES[1]}, {TOKENIZER_FILES[0]} and {OPEN_CLIP_WEIGHTS[0]})"
