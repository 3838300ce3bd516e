"""Models of the benchmarks' three families, small enough to export in a test."""

from collections.abc import Mapping

from bench.towers.models import Model
from bench.towers.random_resnet import ClipResNet
from bench.towers.random_siglip import Siglip
from bench.towers.random_vit import ClipVit

__all__ = ["SMALL"]

SMALL: Mapping[str, Model] = {
    "vit": ClipVit(patch=16, width=128, layers=2, text_width=128, text_layers=2, image_size=64, vocabulary=600),
    "resnet": ClipResNet(
        blocks=(1, 1, 2, 1), width=16, embedding_dim=64, text_width=128, text_layers=2, image_size=64, vocabulary=600
    ),
    "siglip": Siglip(patch=16, width=128, layers=2, image_size=64, vocabulary=600),
}
