"""Writes what is known of the sample pictures as tables that `clip-search evaluate` reads; measures nothing.

names.csv      every picture with its name as caption and its subgroup as class
phrases.jsonl  every picture with those phrases of `queries.tsv` that it answers
"""

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from demo.evaluation import phrase_queries
from demo.samples import Sample

__all__ = ["write_caption_tables"]


def write_caption_tables(folder: Path, samples: Sequence[Sample], pictures: str = "pictures") -> None:
    """Write both tables.

    Args:
        folder: where to.
        samples: the pictures.
        pictures: the folder they lie in, relative to `folder`.
    """
    with (folder / "names.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "label"])
        table.writerows(
            [f"{pictures}/{sample.file}", sample.name, sample.subgroup.replace("-", " ")] for sample in samples
        )
    phrases: dict[str, list[str]] = defaultdict(list)
    for query in phrase_queries(samples)[0]:
        for hexcode in query.answers:
            phrases[hexcode].append(query.text)
    rows = ({"image": f"{pictures}/{sample.file}", "captions": phrases[sample.hexcode]} for sample in samples)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "phrases.jsonl").write_text("".join(lines), encoding="utf-8")
