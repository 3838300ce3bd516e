"""The models of the hub that are known by a short name, and what a person asks before choosing; downloads nothing.

`docs/models.md` shows this table; a test keeps the two equal. Each entry is one that the native exporter authors.
"""

from dataclasses import dataclass

__all__ = ["DEFAULT", "KNOWN_MODELS", "KnownModel", "hub_id_of"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of a released model without having it.

    Attributes:
        name: the short name, for `clip-search export` and `up`.
        hub_id: `owner/name`.
        parameters: of both towers, which come in FP32.
        licence: as its model card names it.
        languages: what people may search in; a number says how many there are.
        picture_gflop: arithmetic that the image tower does for one picture, a multiplication and an addition being two
            operations.
        imagenet_percent: zero-shot accuracy on ImageNet-1k, in percent.
        imagenet_source: who states that.
    """

    name: str
    hub_id: str
    parameters: int
    licence: str
    languages: str
    picture_gflop: float
    imagenet_percent: float
    imagenet_source: str

    @property
    def download_megabytes(self) -> int:
        """The size of its weights in millions of bytes."""
        return round(self.parameters * 4 / 1e6)


KNOWN_MODELS = (
    KnownModel(
        name="b32",
        hub_id="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        parameters=151_277_313,
        licence="mit",
        languages="English",
        picture_gflop=8.8,
        imagenet_percent=66.6,
        imagenet_source="model card",
    ),
    KnownModel(
        name="b16",
        hub_id="laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
        parameters=149_620_737,
        licence="mit",
        languages="English",
        picture_gflop=35.1,
        imagenet_percent=73.5,
        imagenet_source="model card",
    ),
    KnownModel(
        name="l14",
        hub_id="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        parameters=427_616_513,
        licence="mit",
        languages="English",
        picture_gflop=162.0,
        imagenet_percent=79.2,
        imagenet_source="model card",
    ),
    KnownModel(
        name="siglip-b16",
        hub_id="google/siglip-base-patch16-224",
        parameters=203_155_970,
        licence="apache-2.0",
        languages="English",
        picture_gflop=35.4,
        imagenet_percent=76.0,
        imagenet_source="OpenCLIP's results",
    ),
    KnownModel(
        name="multilingual",
        hub_id="google/siglip2-base-patch16-224",
        parameters=375_187_970,
        licence="apache-2.0",
        languages="109",
        picture_gflop=35.4,
        imagenet_percent=78.2,
        imagenet_source="SigLIP 2 paper",
    ),
)
"""The fastest first."""

DEFAULT = KNOWN_MODELS[0]
"""What to take without a reason for another."""


def hub_id_of(source: str) -> str:
    """Give the hub id of a model that is called by its short name; any other source as it is."""
    return next((model.hub_id for model in KNOWN_MODELS if model.name == source), source)
