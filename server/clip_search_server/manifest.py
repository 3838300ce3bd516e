"""The manifest of a model bundle: what it says and how it is written; knows nothing of files, digests or models.

`manifest.json` is one JSON object, UTF-8, keys sorted, two spaces of indentation:

    format_version        1; a reader refuses a newer one
    model                 source, revision, architecture, licence
    embedding_dim         length of the embeddings of both towers
    logit_scale           factor of the cosine before softmax or sigmoid (already exponentiated)
    logit_bias            added after the factor, or null; a model that has one is scored with a sigmoid
    context_length        most tokens of a text, start and end tokens included
    trim_padding          true if texts are run at their own length: exact for causal towers pooled at the end token;
                          false if every text is padded to the context length, which the tower then sees
    text_cleaning         what is done to a text before the tokenizer, see `TextCleaning`
    text_pooling          which token's output is the embedding, see `TextPooling`
    end_token_id          id of the token that ends every text
    pad_token_id          id that fills a text up to a common length
    image_preprocessing   size, resize_mode, interpolation, crop, mean, std
    tokenizer             path of the tokenizer file
    variants              precision -> paths of the image and text graphs
    files                 path -> size_bytes, sha256, for every file but the manifest
    parity                precision -> the measured agreement of each tower with the reference
    space_id              digest of what makes vectors comparable: weights, tokenizer, cleaning, preprocessing
    exporter              name of the exporter and the versions of what made the files
    bundle_digest         SHA-256 of this object without this key, in canonical form: covers every file through `files`

Paths are relative to the folder and use forward slashes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from clip_search_server.json_fields import JsonFieldError, JsonFields

__all__ = [
    "FORMAT_VERSION",
    "INT8",
    "ExporterRecord",
    "FileRecord",
    "ImagePreprocessing",
    "Manifest",
    "ModelRecord",
    "ParityRecord",
    "TextCleaning",
    "TextPooling",
    "TowerParity",
    "Variant",
]

FORMAT_VERSION = 1
INT8: Final = "int8"
"""The variant in 8-bit arithmetic; the others are in floating point."""

TextCleaning = Literal["none", "basic", "whitespace", "lower", "canonicalize", "strip_punctuation"]
"""What is done to a text before the tokenizer.

`none`: the tokenizer file does it all. `basic`: typography is tidied, runs of white space become one space, then lower
case. `whitespace`: the same without lower case. `lower`: lower case alone. `canonicalize`: as `basic`, and underscores
become spaces and ASCII punctuation is removed. `strip_punctuation`: ASCII punctuation, underscores included, is
removed, runs of white space become one space, then lower case.
"""

TextPooling = Literal["highest_id", "end_token", "last"]
"""Which token's output is the embedding: the first with the highest id of its text, the first end token, or the last
of the context, padding included."""

_RGB_CHANNELS = 3


@dataclass(frozen=True)
class ModelRecord:
    """Where the weights come from."""

    source: str
    revision: str | None
    architecture: str
    licence: str | None


@dataclass(frozen=True)
class ImagePreprocessing:
    """How a picture becomes the square of pixels that the image tower reads.

    `resize_mode`: `shortest` scales the shortest edge to `size` and crops the centre; `squash` ignores the shape.
    `crop`: how the reference rounds the crop's corner, `floor` (transformers) or `round` (torchvision, half to even);
    `none` with `squash`. `mean` and `std` are those of pixels scaled to 0..1; they are folded into the graph.
    """

    size: int
    resize_mode: Literal["shortest", "squash"]
    interpolation: Literal["bicubic", "bilinear"]
    crop: Literal["floor", "round", "none"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Variant:
    """The two graphs of one precision, as paths relative to the bundle."""

    image: str
    text: str


@dataclass(frozen=True)
class FileRecord:
    """What a file must be to be intact."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class TowerParity:
    """How far one tower agrees with the reference.

    Cosines are of *centred* embeddings: the reference's mean over the inputs is subtracted from both sides first.
    `spread` is the smallest length of a centred reference embedding: inputs that the reference cannot tell apart would
    measure nothing. `gate` is what the worst cosine must reach; of int8, the mean.
    """

    inputs: int
    centred_cosine_min: float
    centred_cosine_mean: float
    gate: float
    spread: float


@dataclass(frozen=True)
class ParityRecord:
    """The parity of both towers of one variant and what it was measured with.

    `top10_overlap`, for int8: the mean share of a text's ten nearest pictures that both towers together leave the same.
    """

    reference: str
    provider: str
    image: TowerParity
    text: TowerParity
    top10_overlap: float | None = None


@dataclass(frozen=True)
class ExporterRecord:
    """Which exporter made the files, and the versions of the packages it used."""

    name: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """Everything that a server needs to know of a bundle; the module's docstring explains each field."""

    model: ModelRecord
    embedding_dim: int
    logit_scale: float
    logit_bias: float | None
    context_length: int
    trim_padding: bool
    text_cleaning: TextCleaning
    text_pooling: TextPooling
    end_token_id: int
    pad_token_id: int
    image_preprocessing: ImagePreprocessing
    tokenizer: str
    variants: Mapping[str, Variant]
    files: Mapping[str, FileRecord]
    parity: Mapping[str, ParityRecord]
    space_id: str
    exporter: ExporterRecord
    format_version: int = FORMAT_VERSION

    def bundle_digest(self) -> str:
        """Return the digest that covers the manifest and, through `files`, every file of the bundle."""
        canonical = json.dumps(self._fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"

    def to_json(self) -> str:
        """Return the manifest as the text of `manifest.json`; equal manifests give equal text."""
        fields = {**self._fields(), "bundle_digest": self.bundle_digest()}
        return json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Parse `manifest.json`.

        Raises:
            JsonFieldError: a key is missing, wrong or unknown, the format is newer than this reader, or the
                digest does not match; the message names the key.
        """
        try:
            fields = JsonFields(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as error:
            raise JsonFieldError(f"the document is not valid JSON: {error}") from error
        version = fields.integer("format_version", at_least=1)
        if version > FORMAT_VERSION:
            raise JsonFieldError(
                f"format_version is {version}, but this release reads up to {FORMAT_VERSION}; upgrade clip-search"
            )
        manifest = _parse_manifest(fields)
        if manifest.text_pooling == "last" and manifest.trim_padding:
            raise JsonFieldError("trim_padding must be false where text_pooling is last: the last token is padding")
        digest = fields.text("bundle_digest")
        fields.finish()
        if digest != manifest.bundle_digest():
            raise JsonFieldError("bundle_digest does not match the other keys: the manifest was changed after export")
        return manifest

    def _fields(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _parse_manifest(fields: JsonFields) -> Manifest:
    return Manifest(
        model=_parse_model(fields.object("model")),
        embedding_dim=fields.integer("embedding_dim", at_least=1),
        logit_scale=fields.number("logit_scale"),
        logit_bias=fields.optional_number("logit_bias"),
        context_length=fields.integer("context_length", at_least=2),
        trim_padding=fields.boolean("trim_padding"),
        text_cleaning=fields.choice("text_cleaning", get_args(TextCleaning)),
        text_pooling=fields.choice("text_pooling", get_args(TextPooling)),
        end_token_id=fields.integer("end_token_id"),
        pad_token_id=fields.integer("pad_token_id"),
        image_preprocessing=_parse_preprocessing(fields.object("image_preprocessing")),
        tokenizer=fields.text("tokenizer"),
        variants=fields.mapping("variants", _parse_variant),
        files=fields.mapping("files", _parse_file),
        parity=fields.mapping("parity", _parse_parity),
        space_id=fields.text("space_id"),
        exporter=_parse_exporter(fields.object("exporter")),
    )


def _parse_model(fields: JsonFields) -> ModelRecord:
    model = ModelRecord(
        source=fields.text("source"),
        revision=fields.optional_text("revision"),
        architecture=fields.text("architecture"),
        licence=fields.optional_text("licence"),
    )
    fields.finish()
    return model


def _parse_preprocessing(fields: JsonFields) -> ImagePreprocessing:
    preprocessing = ImagePreprocessing(
        size=fields.integer("size", at_least=1),
        resize_mode=fields.choice("resize_mode", ("shortest", "squash")),
        interpolation=fields.choice("interpolation", ("bicubic", "bilinear")),
        crop=fields.choice("crop", ("floor", "round", "none")),
        mean=_rgb(fields, "mean"),
        std=_rgb(fields, "std"),
    )
    fields.finish()
    return preprocessing


def _rgb(fields: JsonFields, key: str) -> tuple[float, float, float]:
    red, green, blue = fields.numbers(key, _RGB_CHANNELS)
    return red, green, blue


def _parse_variant(fields: JsonFields) -> Variant:
    return Variant(image=fields.text("image"), text=fields.text("text"))


def _parse_file(fields: JsonFields) -> FileRecord:
    return FileRecord(size_bytes=fields.integer("size_bytes"), sha256=fields.text("sha256"))


def _parse_parity(fields: JsonFields) -> ParityRecord:
    return ParityRecord(
        reference=fields.text("reference"),
        provider=fields.text("provider"),
        image=_parse_tower_parity(fields.object("image")),
        text=_parse_tower_parity(fields.object("text")),
        top10_overlap=fields.optional_number("top10_overlap"),
    )


def _parse_tower_parity(fields: JsonFields) -> TowerParity:
    parity = TowerParity(
        inputs=fields.integer("inputs", at_least=1),
        centred_cosine_min=fields.number("centred_cosine_min"),
        centred_cosine_mean=fields.number("centred_cosine_mean"),
        gate=fields.number("gate"),
        spread=fields.number("spread"),
    )
    fields.finish()
    return parity


def _parse_exporter(fields: JsonFields) -> ExporterRecord:
    exporter = ExporterRecord(name=fields.text("name"), versions=fields.texts("versions"))
    fields.finish()
    return exporter
