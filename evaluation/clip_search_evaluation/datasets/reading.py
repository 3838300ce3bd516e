"""Finds out which reader some data needs, by what it is and how it is named; reads nothing itself."""

from pathlib import Path

from clip_search_evaluation.datasets.caption_tables import read_csv, read_jsonl
from clip_search_evaluation.datasets.class_folders import read_class_folders
from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.datasets.karpathy import read_karpathy
from clip_search_evaluation.errors import DataError

__all__ = ["read_dataset"]


def read_dataset(source: Path, *, images: Path | None = None, split: str = "test") -> Dataset:
    """Read what is evaluated on.

    Args:
        source: a folder of class folders, a table (`.csv`, `.tsv`, `.jsonl`) or Karpathy's file (`.json`).
        images: what the pictures of a file are relative to; by default the folder it lies in.
        split: of Karpathy's file.

    Raises:
        DataError: it cannot be read; the message names file and line.
    """
    if source.is_dir():
        return read_class_folders(source)
    folder = source.parent if images is None else images
    match source.suffix.lower():
        case ".csv" | ".tsv":
            return read_csv(source, folder)
        case ".jsonl" | ".ndjson":
            return read_jsonl(source, folder)
        case ".json":
            return read_karpathy(source, folder, split)
    raise DataError(f"{source}: is neither a folder nor named .csv, .tsv, .jsonl or .json")
