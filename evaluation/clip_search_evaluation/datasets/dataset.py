"""Pictures with the texts and classes that belong to them, whatever file they came from; reads no picture."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clip_search_evaluation.errors import DataError
from clip_search_evaluation.metrics.arrays import BoolArray, IntArray

__all__ = ["Dataset", "DatasetBuilder", "Restriction"]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """What is evaluated on.

    Attributes:
        source: the file or folder it was read from.
        kind: what that is, in words.
        pictures: the picture files.
        texts: the captions; one that stands at several pictures is one text, unless the format says otherwise.
        pairs: (pairs, 2), each a row of `texts` and a row of `pictures` that belong together.
        classes: names of the classes in order; empty where there are none.
        class_rows: (pictures,), each picture's row of `classes`; empty where there are none.
    """

    source: Path
    kind: str
    pictures: tuple[Path, ...]
    texts: tuple[str, ...]
    pairs: IntArray
    classes: tuple[str, ...]
    class_rows: IntArray

    @property
    def has_captions(self) -> bool:
        """Whether there are texts to find pictures by."""
        return bool(self.texts)

    @property
    def has_classes(self) -> bool:
        """Whether pictures have classes."""
        return bool(self.classes)

    def restricted(self, pictures: BoolArray, texts: BoolArray) -> "Restriction":
        """Keep these pictures (pictures,) and texts (texts,) alone.

        Texts of which no picture is left go too; no class goes, for it remains a possible answer.
        """
        kept = self.pairs[texts[self.pairs[:, 0]] & pictures[self.pairs[:, 1]]]  # (kept, 2)
        text_rows = np.unique(kept[:, 0])
        picture_rows = np.flatnonzero(pictures)
        pairs = np.stack([np.searchsorted(text_rows, kept[:, 0]), np.searchsorted(picture_rows, kept[:, 1])], axis=1)
        dataset = replace(
            self,
            pictures=tuple(self.pictures[row] for row in picture_rows),
            texts=tuple(self.texts[row] for row in text_rows),
            pairs=pairs.astype(np.int64),
            class_rows=self.class_rows[picture_rows] if self.has_classes else self.class_rows,
        )
        return Restriction(dataset, picture_rows, text_rows)

    def picture_groups(self) -> IntArray:
        """Return (texts,) the first picture of each text: texts of one picture are no independent observations."""
        first = np.full(len(self.texts), len(self.pictures), np.int64)
        np.minimum.at(first, self.pairs[:, 0], self.pairs[:, 1])
        return first


@dataclass(frozen=True, slots=True, eq=False)
class Restriction:
    """A part of some data, and which rows of it were kept: `pictures` (kept pictures,), `texts` (kept texts,)."""

    dataset: Dataset
    pictures: IntArray
    texts: IntArray


class DatasetBuilder:
    """Gathers rows of a file into a `Dataset`.

    Args:
        source: what is read.
        kind: what that is, in words.
        texts_shared: whether the same text at several pictures is one text, for which all of them are right.
    """

    def __init__(self, source: Path, kind: str, *, texts_shared: bool = True) -> None:
        self._source = source
        self._kind = kind
        self._texts_shared = texts_shared
        self._pictures: dict[Path, int] = {}
        self._labels: list[str] = []
        self._texts: dict[tuple[str, int], int] = {}
        self._pairs: dict[tuple[int, int], None] = {}
        self._places: dict[bool, str] = {}  # a row with a class, and one without

    def add(self, picture: Path, captions: Iterable[str], label: str, *, where: str) -> None:
        """Add what a row says; rows about the same picture add up.

        Args:
            picture: its file.
            captions: texts that belong to it.
            label: its class; empty where it has none.
            where: file and line, for messages.

        Raises:
            DataError: there is no such file, or the row contradicts another.
        """
        row = self._pictures.get(picture)
        if row is None:
            if not picture.is_file():
                raise DataError(f"{where}: there is no picture {picture}")
            row = self._pictures[picture] = len(self._pictures)
            self._labels.append(label)
        elif label != self._labels[row]:
            raise DataError(
                f"{where}: {picture.name} has the class {label!r} here and {self._labels[row]!r} before; give one"
            )
        self._places.setdefault(bool(label), where)
        for caption in captions:
            key = (caption, -1 if self._texts_shared else row)
            self._pairs[self._texts.setdefault(key, len(self._texts)), row] = None

    def finish(self) -> Dataset:
        """Return the data.

        Raises:
            DataError: there is nothing in it, or only some of its pictures have a class.
        """
        if not self._pictures:
            raise DataError(f"{self._source}: holds no pictures")
        if len(self._places) > 1:
            raise DataError(f"{self._places[False]}: has no class, but {self._places[True]} has; give all pictures one")
        classes, class_rows = self._numbered_classes() if True in self._places else ((), np.empty(0, np.int64))
        if not (self._texts or classes):
            raise DataError(f"{self._source}: holds neither captions nor classes")
        return Dataset(
            source=self._source,
            kind=self._kind,
            pictures=tuple(self._pictures),
            texts=tuple(text for text, _ in self._texts),
            pairs=np.array(list(self._pairs), np.int64).reshape(-1, 2),
            classes=classes,
            class_rows=class_rows,
        )

    def _numbered_classes(self) -> tuple[tuple[str, ...], IntArray]:
        members: dict[str, list[int]] = defaultdict(list)
        for row, label in enumerate(self._labels):
            members[label].append(row)
        if len(members) == 1:
            raise DataError(f"{self._source}: has one class, {self._labels[0]!r}; there must be two to tell apart")
        class_rows = np.empty(len(self._labels), np.int64)
        for number, label in enumerate(sorted(members)):
            class_rows[members[label]] = number
        return tuple(sorted(members)), class_rows
