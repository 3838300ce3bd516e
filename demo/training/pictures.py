"""Training pictures: finds every drawing in the fetched packages and renders it to RGBA; knows nothing of captions.

A drawing of an emoji is keyed by the emoji's code points (`1F436`, no variation selector); a clip-art file by its path.
The rendered set is cached as one `.npz`: `pixels` uint8 [count, size, size, 4], `keys` and `styles` str [count].
"""

import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFilter, ImageFont

#: The style kept out of training to measure progress on; the demo's own style (OpenMoji) is not among the sources.
VALIDATION_STYLE = "fxemoji"
ICONIFY_STYLES = (
    "noto",
    "noto-v1",
    "twemoji",
    "emojione",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "streamline-emojis",
    "emojione-monotone",
    "icon-park",
    VALIDATION_STYLE,
)
#: Noto Emoji's line drawings, as they are and over the flattened colours of the drawings in colour.
LINE_STYLE, INKED_STYLE = "noto-emoji", "noto-inked"
_LINE_WEIGHT = 400
_INKED_WEIGHTS = (300, 500)
_SKIN_TONES = re.compile(r"1F3F[B-F]")
_REGIONAL_INDICATORS = re.compile(r"1F1[EF][0-9A-F]|1F3F4|1F3F3|1F6A9|1F38C|E00[67]")
#: Clip art that is a flag, a texture or a stroke of a user interface teaches no words.
_CLIPART_SKIPPED = re.compile(r"flags|patterns|gradients|cardbacks|duplicates|computer/icons|examples|jigsaw|flowchart")


class Drawing(NamedTuple):
    """One picture to render: SVG text or the bytes of a raster file."""

    key: str
    style: str
    svg: str = ""
    raster: bytes = b""
    line_font: str = ""  # path of a font whose glyph of `key` is drawn alone, or in ink over `svg`


def normalize_code_points(hexcode: str) -> str:
    """Return upper-case code points joined by `-`, without variation selectors."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def is_wanted_emoji(key: str) -> bool:
    """Tell whether `key` is neither a flag nor a skin-tone variant."""
    return not (_SKIN_TONES.search(key) or _REGIONAL_INDICATORS.match(key))


def emoji_records(folder: Path) -> dict[str, dict[str, object]]:
    """Return emojibase's English records of wanted emoji, by normalized code points."""
    records = json.loads((folder / "node_modules/emojibase-data/en/data.json").read_text())
    keyed = {normalize_code_points(record["hexcode"]): record for record in records}
    return {k: r for k, r in keyed.items() if is_wanted_emoji(k) and "facing right" not in r["label"] and "group" in r}


def slug(label: str) -> str:
    """Return `label` as icon sets spell it: lower case, hyphens for everything else."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("'", "").replace("\u2019", "")).strip("-")


def drawings(folder: Path) -> Iterator[Drawing]:
    """Yield every training drawing found in the packages under `folder`."""
    records = emoji_records(folder)
    for style in ICONIFY_STYLES:
        yield from _iconify_drawings(folder / "node_modules/@iconify-json" / style, style, records)
    yield from _line_drawings(folder, records)
    for path in sorted((folder / "node_modules/@lobehub/fluent-emoji-3d/assets").glob("*.webp")):
        key = normalize_code_points(path.stem)
        if key in records:
            yield Drawing(key, "fluent-emoji-3d", raster=path.read_bytes())
    clipart = folder / "debian/usr/share/openclipart/svg"
    for path in sorted(clipart.rglob("*.svg")):
        relative = path.relative_to(clipart)
        if path.is_file() and not path.is_symlink() and not _CLIPART_SKIPPED.search(str(relative)):
            yield Drawing(str(relative), "openclipart", svg=path.read_text(errors="replace"))


def _iconify_drawings(package: Path, style: str, records: dict[str, dict[str, object]]) -> Iterator[Drawing]:
    icons = json.loads((package / "icons.json").read_text())
    names = {slug(str(record["label"])): key for key, record in records.items()}
    names |= {name.replace("-", ""): key for name, key in names.items()}
    if (package / "chars.json").exists():
        for code_points, name in json.loads((package / "chars.json").read_text()).items():
            names[name] = normalize_code_points(code_points)
    seen: set[str] = set()
    for name, icon in icons["icons"].items():
        key = names.get(name, "")
        if key in records and key not in seen:
            seen.add(key)
            width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
            yield Drawing(key, style, svg=f"{svg}{icon['body']}</svg>")


def _line_drawings(folder: Path, records: dict[str, dict[str, object]]) -> Iterator[Drawing]:
    """Yield the glyphs of single code points; the package spreads them over fonts, listed in its `unicode.json`."""
    package = folder / "node_modules/@fontsource/noto-emoji"
    subsets = json.loads((package / "unicode.json").read_text())
    coloured = {d.key: d.svg for d in _iconify_drawings(folder / "node_modules/@iconify-json/noto", "noto", records)}
    for key in records:
        subset = next((name for name, ranges in subsets.items() if _covers(ranges, key)), None)
        if subset is None:
            continue
        font = str(package / f"files/noto-emoji-{subset.strip('[]')}-{{}}-normal.woff")
        yield Drawing(key, LINE_STYLE, line_font=font.format(_LINE_WEIGHT))
        if key in coloured:
            for weight in _INKED_WEIGHTS:
                yield Drawing(key, INKED_STYLE, svg=coloured[key], line_font=font.format(weight))


def _covers(ranges: str, key: str) -> bool:
    """Tell whether CSS `unicode-range` text covers the single code point `key`; a sequence is never covered."""
    if "-" in key or key.startswith(("200D", "FE0F")):
        return False
    bounds = (part.removeprefix("U+").partition("-") for part in ranges.split(","))
    return any(int(low, 16) <= int(key, 16) <= int(high or low, 16) for low, _, high in bounds)


def render(drawing: Drawing, size: int) -> np.ndarray | None:
    """Return `drawing` as uint8 (size, size, 4), fitted into the square, or None when it cannot be drawn."""
    try:
        image = _render_line_drawing(drawing, size) if drawing.line_font else _render_colours(drawing, size)
    except (ValueError, OSError, RuntimeError, Image.DecompressionBombError):
        return None
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    pixels = np.asarray(square)  # (size, size, 4)
    return pixels if (pixels[..., 3] > 32).mean() > 0.01 else None  # noqa: PLR2004 - an empty drawing


def _render_colours(drawing: Drawing, size: int) -> Image.Image:
    raster = drawing.raster or bytes(resvg_py.svg_to_bytes(svg_string=drawing.svg, width=2 * size))
    return Image.open(io.BytesIO(raster)).convert("RGBA")


def _render_line_drawing(drawing: Drawing, size: int) -> Image.Image:
    """Draw the glyph in black, over the coloured drawing without its fine detail when there is one."""
    font = ImageFont.truetype(drawing.line_font, 2 * size)
    text = chr(int(drawing.key, 16))
    left, top, right, bottom = font.getbbox(text)
    side = int(max(right - left, bottom - top, 1))
    ink = Image.new("L", (side, side))
    corner = ((side - right + left) / 2 - left, (side - bottom + top) / 2 - top)
    ImageDraw.Draw(ink).text(corner, text, font=font, fill=255)
    image = Image.new("RGBA", (side, side))
    if drawing.svg:
        flattened = _render_colours(drawing, size // 2).filter(ImageFilter.MedianFilter(size // 24 * 2 + 1))
        image = flattened.resize((side, side), Image.Resampling.BICUBIC)
    image.paste("black", mask=ink)
    return image


def _render_one(arguments: tuple[Drawing, int]) -> np.ndarray | None:
    return render(*arguments)


def load_pictures(folder: Path, size: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Return pixels uint8 (count, size, size, 4), keys and styles, rendering them once into `folder`."""
    cache = folder / f"pictures-{size}.npz"
    if not cache.exists():
        found = list(drawings(folder))
        with ProcessPoolExecutor() as pool:
            rendered = list(pool.map(_render_one, ((drawing, size) for drawing in found), chunksize=32))
        kept = [(d, pixels) for d, pixels in zip(found, rendered, strict=True) if pixels is not None]
        np.savez(
            cache,
            pixels=np.stack([pixels for _, pixels in kept]),
            keys=np.array([d.key for d, _ in kept]),
            styles=np.array([d.style for d, _ in kept]),
        )
    with np.load(cache) as stored:
        return stored["pixels"], stored["keys"].tolist(), stored["styles"].tolist()
