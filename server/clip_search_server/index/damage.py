"""A short memory of the damage found in a collection, for operators; knows nothing of how it is found or mended."""

from collections.abc import Callable

_SENTENCES_MAX = 100

Report = Callable[[str], None]


class DamageLog:
    """Collects one sentence for each piece of damage, reports each once, and keeps the first hundred.

    Args:
        report: told of each new piece at once.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._sentences: dict[str, None] = {}

    def note(self, sentence: object) -> None:
        """Remember and report a piece of damage, unless it is known already."""
        text = str(sentence)
        if text not in self._sentences and len(self._sentences) < _SENTENCES_MAX:
            self._sentences[text] = None
            self._report(f"damage: {text}")

    def sentences(self) -> tuple[str, ...]:
        """Return what is known, oldest first."""
        return tuple(self._sentences)
