"""When a folder counts as changed."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from watchfiles import Change

from clip_search_photos.watching import (
    _GATHERING_TURNS_MAX,
    _QUIET_TURNS,
    Changes,
    _visible,
    has_removals,
    settled,
)

QUIET: Changes = frozenset()


def _change(path: str, kind: Change = Change.added) -> Changes:
    return frozenset({(kind, path)})


def _answers(turns: Iterable[Changes]) -> list[Changes]:
    return [changes for changes in settled(turns) if changes]


def test_changes_come_together_once_nothing_happens_any_more() -> None:
    """A burst with short pauses is one answer, given after the last of it."""
    pause = [QUIET] * (_QUIET_TURNS - 1)
    burst = [_change("a"), *pause, _change("b"), *pause]
    assert _answers(burst) == []
    assert _answers([*burst, QUIET]) == [_change("a") | _change("b")]


def test_each_turn_is_answered() -> None:
    """Whoever follows can look after other things at every turn."""
    turns = [QUIET, _change("a"), *[QUIET] * 9]
    assert len(list(settled(turns))) == len(turns)


def test_a_folder_that_is_never_quiet_is_not_waited_for_for_ever() -> None:
    """After as many turns as there may be, what was gathered comes all the same; nothing comes twice."""

    def busy() -> Iterator[Changes]:
        for number in range(2 * _GATHERING_TURNS_MAX):
            yield _change(str(number))

    first, second = _answers(busy())
    assert len(first) == len(second) == _GATHERING_TURNS_MAX
    assert not first & second


def test_hidden_names_are_passed_over() -> None:
    """Below the folders, that is: these themselves may be hidden."""
    folders = [Path("/home/.pictures")]
    seen = _change("/home/.pictures/a.jpg")
    hidden = _change("/home/.pictures/.thumbnails/a.jpg") | _change("/home/.pictures/.a.jpg.part")
    assert _visible(seen | hidden, folders) == seen


def test_a_removal_is_noticed_among_others() -> None:
    """Also that of a moved file's old name."""
    assert not has_removals(_change("a") | _change("b", Change.modified))
    assert has_removals(_change("a") | _change("b", Change.deleted))
