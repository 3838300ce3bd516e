"""Writes the two graphs of a bundle: picks the tower module for the weights and declares inputs and outputs.

A new kind of tower is one more module in `towers`, one in `reference`, and one case here and there.
"""

from pathlib import Path

import numpy as np

from clip_search_export.graph import GraphBuilder
from clip_search_export.precision import Precision
from clip_search_export.towers.modified_resnet import add_modified_resnet
from clip_search_export.towers.siglip import add_siglip_text_transformer, add_siglip_vision_transformer
from clip_search_export.towers.text_transformer import add_text_transformer
from clip_search_export.towers.vit import add_vision_transformer
from clip_search_export.weights import (
    ImageTower,
    SiglipTextTransformer,
    SiglipVisionTransformer,
    TextTower,
    VisionTransformer,
)
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["author_image_tower", "author_text_tower"]


def author_image_tower(path: Path, tower: ImageTower, preprocessing: ImagePreprocessing, precision: Precision) -> None:
    """Write the image graph to `path` (and its weights beside it): uint8 pixels to unit-length embeddings."""
    graph = GraphBuilder("image", precision)
    size = preprocessing.size
    pixels = graph.input("pixels", np.uint8, ["batch", size, size, 3])
    if isinstance(tower, VisionTransformer):
        embedding = add_vision_transformer(graph, pixels, tower, preprocessing)
        dim = tower.projection.shape[1]
    elif isinstance(tower, SiglipVisionTransformer):
        embedding = add_siglip_vision_transformer(graph, pixels, tower, preprocessing)
        dim = len(tower.head.mlp_down.bias)
    else:
        embedding = add_modified_resnet(graph, pixels, tower, preprocessing)
        dim = len(tower.pool.output.bias)
    graph.output(embedding, "embedding", ["batch", dim])
    graph.save(path)


def author_text_tower(path: Path, tower: TextTower, precision: Precision) -> None:
    """Write the text graph to `path` (and its weights beside it): ids and positions to unit-length embeddings."""
    graph = GraphBuilder("text", precision)
    # A tower that sees the padding takes texts of its whole context alone.
    length = len(tower.positions) if isinstance(tower, SiglipTextTransformer) else "length"
    ids = graph.input("ids", np.int64, ["batch", length])
    end = graph.input("end", np.int64, ["batch"])
    if isinstance(tower, SiglipTextTransformer):
        embedding = add_siglip_text_transformer(graph, ids, end, tower)
        dim = len(tower.head.bias)
    else:
        embedding = add_text_transformer(graph, ids, end, tower)
        dim = tower.projection.shape[1]
    graph.output(embedding, "embedding", ["batch", dim])
    graph.save(path)
