"""Reads how pictures are preprocessed from the files of Hugging Face's image processors; knows nothing of towers.

    preprocessor_config.json  or the key image_processor in processor_config.json

Settings that are absent take the defaults of the family's processor class.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from clip_search_export.checkpoints.settings import Settings
from clip_search_export.errors import UnsupportedError
from clip_search_export.files.json_files import read_json
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["read_preprocessing", "read_processor_class"]

_FILE = "preprocessor_config.json"
_RESAMPLING: tuple[tuple[int, Literal["bicubic", "bilinear"]], ...] = ((2, "bilinear"), (3, "bicubic"))
"""Pillow's numbers of its filters."""
_RESCALE_TOLERANCE = 1e-6
"""1/255 comes as decimals in a file."""


def read_preprocessing(folder: Path, image_size: int, defaults: Mapping[str, Any]) -> ImagePreprocessing:
    """Read the preprocessing of a tower that takes squares of `image_size`.

    Raises:
        UnsupportedError: the server would not reproduce a setting exactly; names it.
        CheckpointError: the file is missing or damaged.
    """
    processor = _read_settings(folder, defaults)
    for switch in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        processor.refuse_unless(switch, True, None)
    if abs(processor.number("rescale_factor") * 255 - 1) > _RESCALE_TOLERANCE:
        raise UnsupportedError(f"{_FILE}: a rescale_factor other than 1/255 is not supported.")
    processor.refuse_unless("resample", *(number for number, _ in _RESAMPLING))
    resize_mode = _read_resize_mode(processor, image_size)
    return ImagePreprocessing(
        size=image_size,
        resize_mode=resize_mode,
        interpolation=next(name for number, name in _RESAMPLING if number == processor.get("resample")),
        crop="floor" if resize_mode == "shortest" else "none",
        mean=processor.rgb("image_mean"),
        std=processor.deviations("image_std"),
    )


def read_processor_class(folder: Path) -> str | None:
    """Return the family of the image processor that the file names, such as `CLIP`; None if it names none.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    processor = _read_settings(folder, {})
    for key, suffix in (("image_processor_type", "ImageProcessor"), ("feature_extractor_type", "FeatureExtractor")):
        name = processor.get(key)
        if isinstance(name, str):
            return name.removesuffix("Fast").removesuffix(suffix)
    return None


def _read_resize_mode(processor: Settings, image_size: int) -> Literal["shortest", "squash"]:
    size, crop = processor.get("size"), bool(processor.get("do_center_crop"))
    resize_mode: Literal["shortest", "squash"] = "shortest"
    if isinstance(size, dict) and "shortest_edge" not in size:
        resize_mode = "squash"
        edges = [size.get("height"), size.get("width")]
    else:
        edges = [size["shortest_edge"] if isinstance(size, dict) else size]
        if not crop:
            raise UnsupportedError(f"{_FILE}: scaling the shortest edge without a crop gives no square.")
    if crop:
        crop_size = processor.get("crop_size")
        edges += crop_size.values() if isinstance(crop_size, dict) else [crop_size]
    if any(edge != image_size for edge in edges):
        found = sorted(set(map(str, edges)))
        raise UnsupportedError(f"{_FILE}: sizes {found} other than the tower's image_size {image_size}.")
    return resize_mode


def _read_settings(folder: Path, defaults: Mapping[str, Any]) -> Settings:
    if (folder / _FILE).is_file() or not (folder / "processor_config.json").is_file():
        return Settings(read_json(folder / _FILE), _FILE, defaults)
    document = Settings(read_json(folder / "processor_config.json"), "processor_config.json")
    return (
        document.nested("image_processor", defaults)
        if document.get("image_processor")
        else Settings({}, _FILE, defaults)
    )
