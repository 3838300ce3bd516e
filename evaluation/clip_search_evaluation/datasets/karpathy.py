"""Reads Karpathy's JSON files of COCO, Flickr8k and Flickr30k; knows nothing of what pictures hold.

    {"images": [{"filename": "…jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": "…"}, …]}, …]}

Karpathy and Fei-Fei, Deep Visual-Semantic Alignments for Generating Image Descriptions, 2015 (arXiv:1412.2306). Results
are published on the split `test`: 5,000 pictures of COCO, 1,000 of Flickr30k. As there, a caption is right for its own
picture alone, even where another picture has the same one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_search_evaluation.datasets.caption_tables import read_text
from clip_search_evaluation.datasets.dataset import Dataset, DatasetBuilder
from clip_search_evaluation.errors import DataError

__all__ = ["read_karpathy"]


def read_karpathy(path: Path, folder: Path, split: str) -> Dataset:
    """Read one split of such a file.

    Args:
        path: the file.
        folder: what `filepath` and `filename` are relative to.
        split: `test`, `val`, `train` or `restval`.

    Raises:
        DataError: it is no such file, or lacks the split; the message names the line or the field.
    """
    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is no JSON: {error.msg}") from error
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise DataError(f"{path}: has no list `images`; tables are read from .csv, .tsv and .jsonl")
    builder = DatasetBuilder(path, f"Karpathy split {split}", texts_shared=False)
    splits = set()
    for number, image in enumerate(images):
        where = f"{path}: images[{number}]"
        if not isinstance(image, dict):
            raise DataError(f"{where}: is no object")
        found = image.get("split")
        splits.add(str(found))
        if found == split:
            picture = folder / _optional_text(image, "filepath", where) / _required_text(image, "filename", where)
            builder.add(picture, _sentences(image, where), "", where=where)
    if split not in splits:
        raise DataError(f"{path}: has no split {split!r}, only {', '.join(sorted(splits)) or 'nothing'}; see --split")
    return builder.finish()


def _sentences(image: Mapping[str, Any], where: str) -> list[str]:
    sentences = image.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise DataError(f"{where}.sentences: must be a list that is not empty")
    texts = []
    for number, sentence in enumerate(sentences):
        place = f"{where}.sentences[{number}]"
        if not isinstance(sentence, dict):
            raise DataError(f"{place}: is no object")
        texts.append(_required_text(sentence, "raw", place))
    return texts


def _required_text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}.{name}: must be a text that is not empty, and is {value!r}")
    return value.strip()


def _optional_text(fields: Mapping[str, Any], name: str, where: str) -> str:
    return _required_text(fields, name, where) if fields.get(name) else ""
