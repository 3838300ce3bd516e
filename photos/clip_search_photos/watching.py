"""Tells when folders have changed and are quiet again; knows nothing of what is done then.

A camera's card is copied file by file, and a large file piece by piece: so changes are gathered until nothing has
happened for two seconds, but no longer than half a minute.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import watchfiles
from watchfiles.main import FileChange

from clip_search_photos.programs import ProgramError

__all__ = ["Changes", "has_removals", "settled", "watch"]

Changes = frozenset[FileChange]

_TURN_MS = 500
_QUIET_TURNS = 4
_GATHERING_TURNS_MAX = 60
_NOTHING: Changes = frozenset()


def watch(folders: Sequence[Path]) -> Iterator[Changes]:
    """Watch folders from now on, and give what has settled; every half second, mostly nothing.

    Raises:
        ProgramError: the system cannot watch so many folders.
    """
    turns = watchfiles.watch(
        *folders,
        watch_filter=None,
        debounce=_TURN_MS,
        rust_timeout=_TURN_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    try:
        first = next(turns)  # only now it begins to watch
    except (OSError, RuntimeError) as error:
        raise ProgramError(
            f"the folders cannot be watched ({error}): raise fs.inotify.max_user_watches with sysctl, or set "
            "WATCHFILES_FORCE_POLLING=1, which reads the folders again and again"
        ) from error
    return settled(_visible(changes, folders) for changes in itertools.chain([first], turns))


def settled(turns: Iterable[Changes]) -> Iterator[Changes]:
    """Hold changes back until turns have been without any; each turn gives one answer, mostly an empty one."""
    gathered = _NOTHING
    quiet = gathering = 0
    for changes in turns:
        gathered |= changes
        quiet = 0 if changes else quiet + 1
        gathering = gathering + 1 if gathered else 0
        if gathered and (quiet == _QUIET_TURNS or gathering == _GATHERING_TURNS_MAX):
            yield gathered
            gathered, gathering = _NOTHING, 0
        else:
            yield _NOTHING


def has_removals(changes: Changes) -> bool:
    """Tell whether something is not where it was: a moved file has gone too."""
    return any(kind is watchfiles.Change.deleted for kind, _ in changes)


def _visible(changes: Iterable[FileChange], folders: Sequence[Path]) -> Changes:
    """Leave out what hidden names are part of, below the folders."""
    return frozenset((kind, path) for kind, path in changes if not _is_hidden(Path(path), folders))


def _is_hidden(path: Path, folders: Sequence[Path]) -> bool:
    for folder in folders:
        if path.is_relative_to(folder):
            return any(part.startswith(".") for part in path.relative_to(folder).parts)
    return False
