"""Writes the two graphs of a bundle: picks the tower module for the weights and declares inputs and outputs.

A new kind of tower is one more module in `towers`, one in `reference`, and one case here and there.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from clip_search_export.graph import GraphBuilder
from clip_search_export.precision import Precision
from clip_search_export.quantization.schemes import FLOAT, Plan
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


def author_image_tower(
    path: Path,
    tower: ImageTower,
    preprocessing: ImagePreprocessing,
    precision: Precision,
    *,
    plan: Plan = FLOAT,
    probing: bool = False,
) -> dict[str, npt.NDArray[np.floating]]:
    """Write the image graph to `path` (and its weights beside it): uint8 pixels to unit-length embeddings.

    Args:
        path: the graph's file.
        tower: the weights.
        preprocessing: what the pixels went through; folded in.
        precision: of what the plan does not name.
        plan: which products compute in 8 bits.
        probing: whether what enters each product becomes an output, for calibration.

    Returns:
        The weight of each product by its name.
    """
    graph = GraphBuilder("image", precision, plan=plan, probing=probing)
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
    return graph.products


def author_text_tower(
    path: Path, tower: TextTower, precision: Precision, *, plan: Plan = FLOAT, probing: bool = False
) -> dict[str, npt.NDArray[np.floating]]:
    """Write the text graph to `path` (and its weights beside it): ids and positions to unit-length embeddings.

    Arguments and result are those of `author_image_tower`.
    """
    graph = GraphBuilder("text", precision, plan=plan, probing=probing)
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
    return graph.products
