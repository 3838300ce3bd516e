"""Reads a folder whose subfolders are classes, each named by what its pictures show; reads no picture.

pets/
  cat/one.jpg
  red_panda/more/two.jpg        the class `red panda`: an underscore in a folder's name stands for a space
"""

import os
from pathlib import Path

from clip_search.indexing.folders import FolderSource
from clip_search.indexing.found import Unusable
from clip_search_evaluation.datasets.dataset import Dataset, DatasetBuilder
from clip_search_evaluation.errors import DataError

__all__ = ["read_class_folders"]

_DEPTH_MIN = 2  # a folder and a file


def read_class_folders(folder: Path) -> Dataset:
    """Read the pictures of a folder's subfolders; hidden ones and links to folders are passed over.

    Raises:
        DataError: a picture lies in no class, cannot be read, or there are no two classes.
    """
    builder = DatasetBuilder(folder, "folders named by class")
    whole = Path(os.path.abspath(folder))  # noqa: PTH100  # as `FolderSource` asks for: links stay, `..` goes
    for found in FolderSource(whole).pictures(bytes_max=0):
        if isinstance(found, Unusable):
            raise DataError(f"{found.place}: {found.reason}")
        path = Path(found.place)
        parts = path.relative_to(whole).parts
        if len(parts) < _DEPTH_MIN:
            raise DataError(
                f"{path}: lies in no folder that names its class; move it to {folder}/CLASS/, or give a table "
                "of pictures and captions instead of the folder"
            )
        builder.add(path, (), parts[0].replace("_", " ").strip(), where=str(path))
    return builder.finish()
