"""Reads WordNet 3.0 in its database format; knows nothing of emoji.

Format: wndb(5WN). `index.noun` lists for each lemma the byte offsets of its synsets in `data.noun`, commonest sense
first; a `data.noun` line holds the synset's words, its pointers (`@` = hypernym) and, after `|`, its gloss.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: Hypernyms so general that they say nothing about a picture.
TOO_GENERAL = frozenset(
    (
        "entity",
        "physical entity",
        "object",
        "whole",
        "abstraction",
        "abstract entity",
        "artifact",
        "unit",
        "matter",
        "causal agent",
        "attribute",
        "instrumentality",
        "measure",
        "group",
        "relation",
        "communication",
        "psychological feature",
        "physical object",
        "artefact",
        "thing",
        "living thing",
        "organism",
        "being",
        "cause",
        "substance",
        "part",
        "piece",
        "set",
        "act",
        "deed",
        "human action",
        "human activity",
        "state",
        "event",
        "content",
        "message",
        "subject matter",
        "instrumentation",
        "cognition",
        "knowledge",
        "noesis",
        "process",
        "way",
        "quality",
        "property",
    )
)


#: Lexicographer files (lexnames(5WN)) of what can be drawn or done: acts, animals, artifacts, the body, events,
#: feelings, food, natural objects, people, phenomena, plants, shapes, states, substances, time.
_EVERYDAY_NOUNS = frozenset({4, 5, 6, 8, 11, 12, 13, 17, 18, 19, 20, 25, 26, 27, 28})
_FIRST_VERB_FILE, _PERTAINYMS = 29, 1
#: A definition that only places something in a scientific system, or names one person or place.
_SPECIALIST = re.compile(r"\b(genus|genera|family|order|species|suborder|subfamily|phylum|born|chemical|acid)\b|\d{3}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One sense as text: its definition, example sentences and words."""

    definition: str
    examples: tuple[str, ...]
    is_everyday: bool
    common_words: tuple[str, ...]  # those that occur in WordNet's hand-tagged texts


@dataclass(frozen=True, slots=True)
class Synset:
    """One sense: its words, the words of its near hypernyms, and its definition."""

    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    definition: str


class WordNet:
    """Looks up the commonest noun sense of a word."""

    def __init__(self, folder: Path) -> None:
        """Load `folder` (holding index.noun and data.noun)."""
        self._folder = folder
        self._data = (folder / "data.noun").read_bytes()
        self._offsets: dict[str, int] = {}
        for line in (folder / "index.noun").read_text().splitlines():
            if not line.startswith(" "):
                fields = line.split()
                self._offsets[fields[0].replace("_", " ")] = int(fields[-int(fields[2])])

    def synset(self, noun: str, hypernym_levels: int = 3) -> Synset | None:
        """Return the commonest sense of `noun`, or None when WordNet lacks the word."""
        offset = self._offsets.get(noun)
        if offset is None and noun.endswith("s"):
            offset = self._offsets.get(noun[:-1])
        if offset is None:
            return None
        words, parents, definition = self._read(offset)
        hypernyms: list[str] = []
        for _ in range(hypernym_levels):
            if not parents:
                break
            above, parents, _ = self._read(parents[0])
            hypernyms.extend(above)
        return Synset(words, tuple(word for word in hypernyms if word not in TOO_GENERAL), definition)

    def entries(self, part_of_speech: str) -> Iterator[Entry]:
        """Yield every sense of a part of speech (`noun`, `verb`, `adj`), in the order of the file."""
        common = set()
        for line in (self._folder / f"index.{part_of_speech}").read_text().splitlines():
            fields = line.split()
            if not line.startswith(" ") and int(fields[-int(fields[2]) - 1]) > 0:  # senses seen in tagged texts
                common.add(fields[0])
        for line in (self._folder / f"data.{part_of_speech}").read_text().splitlines():
            if line.startswith(" "):
                continue
            head, _, gloss = line.partition("|")
            fields = head.split()
            words = tuple(re.sub(r"\(.*\)", "", word) for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2])
            definition = re.sub(r"\([^)]*\)", "", gloss.split('"')[0]).strip(" ;")
            file_number = int(fields[1])
            is_everyday = file_number in _EVERYDAY_NOUNS or file_number >= _FIRST_VERB_FILE or part_of_speech == "adj"
            is_everyday = is_everyday and file_number != _PERTAINYMS and not _SPECIALIST.search(definition)
            yield Entry(
                definition=definition.split(";")[0],
                examples=tuple(re.findall(r'"([^"]+)"', gloss)),
                is_everyday=is_everyday and "@i" not in fields,
                common_words=tuple(word.replace("_", " ").lower() for word in words if word.lower() in common),
            )

    @cache  # noqa: B019 - one WordNet lives as long as the program
    def _read(self, offset: int) -> tuple[tuple[str, ...], tuple[int, ...], str]:
        line = self._data[offset : self._data.index(b"\n", offset)].decode()
        head, _, gloss = line.partition("|")
        fields = head.split()
        word_count = int(fields[3], 16)
        words = tuple(fields[4 + 2 * i].replace("_", " ").lower() for i in range(word_count))
        pointers = fields[5 + 2 * word_count :]
        parents = tuple(int(pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i"))
        return words, parents, gloss.split(";")[0].split('"')[0].strip()
