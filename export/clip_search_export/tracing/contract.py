"""Writes a traced tower as a graph of the bundle contract; knows nothing of where the tower comes from.

The image tower takes uint8 pixels, rescaled and normalized here; the text tower takes ids and the position of the
pooled token, from which come the attention mask and the token types that it may ask for. Both end with unit length in
FP32, whether or not the model normalizes its embeddings itself. Arithmetic is FP32 in every precision: a traced graph
does not say where FP16 would do harm.

The attention mask must be 1 on a text's own tokens and 0 on its padding. The position of the pooled token alone does
not tell them apart: words of a text may spell the end token, and then the first one is pooled. Neither does the padding
token, which for CLIP is the end token. Both together do, because no text ends with padding:

    mask[i] = i <= max(pooled position, last position whose id is not the padding's)
"""

from pathlib import Path

import numpy as np

from clip_search_export.errors import UnsupportedError
from clip_search_export.graph import GraphBuilder, Value
from clip_search_export.precision import Precision
from clip_search_export.towers.layers import add_unit_length
from clip_search_export.tracing.joint import Tower
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["write_image_tower", "write_text_tower"]

_WHITE = 255.0


def write_image_tower(
    path: Path, tower: Tower, preprocessing: ImagePreprocessing, embedding_dim: int, precision: Precision
) -> None:
    """Write the image graph to `path` (and its weights beside it): uint8 pixels to unit-length embeddings.

    Raises:
        UnsupportedError: the tower asks for more than pixels; names what.
    """
    _refuse_others("image", tower, {"pixel_values"})
    graph = GraphBuilder("image", precision)
    pixels = graph.input("pixels", np.uint8, ["batch", preprocessing.size, preprocessing.size, 3])
    normalized = _add_normalization(graph, pixels, preprocessing)
    embedding = graph.graft(tower.nodes, tower.constants, {"pixel_values": normalized}, tower.output)
    graph.output(add_unit_length(graph, embedding), "embedding", ["batch", embedding_dim])
    graph.save(path)


def write_text_tower(
    path: Path,
    tower: Tower,
    *,
    context_length: int | None,
    pad_token_id: int,
    embedding_dim: int,
    precision: Precision,
) -> None:
    """Write the text graph to `path` (and its weights beside it): ids and positions to unit-length embeddings.

    Args:
        path: the graph.
        tower: what stands between the inputs and unit length.
        context_length: the one length of all texts, padded; None for a tower that takes any.
        pad_token_id: the padding's id.
        embedding_dim: the length of an embedding.
        precision: the format of the weights; arithmetic is FP32.

    Raises:
        UnsupportedError: the tower asks for an input that is not known; names it.
    """
    _refuse_others("text", tower, {"input_ids", "attention_mask", "token_type_ids"})
    graph = GraphBuilder("text", precision)
    ids = graph.input("ids", np.int64, ["batch", "length" if context_length is None else context_length])
    end = graph.input("end", np.int64, ["batch"])
    inputs = {"input_ids": ids}
    if "attention_mask" in tower.inputs:
        inputs["attention_mask"] = _add_attention_mask(graph, ids, end, context_length, pad_token_id)
    if "token_type_ids" in tower.inputs:
        zero = graph.exact("token_type", np.array(0, dtype=np.int64))
        inputs["token_type_ids"] = graph.operator("Mul", [ids, zero], name="token_types")
    embedding = graph.graft(tower.nodes, tower.constants, inputs, tower.output)
    graph.output(add_unit_length(graph, embedding), "embedding", ["batch", embedding_dim])
    graph.save(path)


def _refuse_others(name: str, tower: Tower, known: set[str]) -> None:
    unknown = sorted(set(tower.inputs) - known)
    if unknown:
        raise UnsupportedError(f"the {name} tower of the traced graph asks for {', '.join(unknown)}.")


def _add_normalization(graph: GraphBuilder, pixels: Value, preprocessing: ImagePreprocessing) -> Value:
    """Turn bytes, (batch, size, size, 3), into (pixel / 255 - mean) / std, (batch, 3, size, size)."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)  # float64 (3,)
    with graph.scope("pixels"):
        # Moved while still bytes.
        x = graph.operator("Transpose", [pixels], name="channels_first", perm=[0, 3, 1, 2])
        x = graph.cast(x, np.float32)
        scale = graph.exact("scale", (1 / (_WHITE * std)).astype(np.float32)[:, None, None])
        offset = graph.exact("offset", (-mean / std).astype(np.float32)[:, None, None])
        x = graph.operator("Mul", [x, scale], name="scaled")
        return graph.operator("Add", [x, offset], name="normalized")


def _add_attention_mask(
    graph: GraphBuilder, ids: Value, end: Value, context_length: int | None, pad_token_id: int
) -> Value:
    """Return int64 (batch, length), 1 where the module's docstring says."""
    with graph.scope("attention_mask"):
        zero, one = (graph.exact(name, np.array(value, dtype=np.int64)) for name, value in (("zero", 0), ("one", 1)))
        axis = graph.integers("axis", [1])
        if context_length is None:
            length = graph.operator("Squeeze", [graph.operator("Shape", [ids], name="shape", start=1)], name="length")
            positions = graph.operator("Range", [zero, length, one], name="positions")  # (length,)
        else:
            positions = graph.integers("positions", range(context_length))
        padding = graph.exact("padding", np.array(pad_token_id, dtype=np.int64))
        is_padding = graph.operator("Equal", [ids, padding], name="is_padding", dtype=np.bool_)
        own = graph.operator("Where", [is_padding, zero, positions], name="own", dtype=np.int64)  # (batch, length)
        last_own = graph.operator("ReduceMax", [own, axis], name="last_own", keepdims=1)  # (batch, 1)
        end_column = graph.operator("Unsqueeze", [end, axis], name="end")
        last = graph.operator("Max", [last_own, end_column], name="last")
        inside = graph.operator("LessOrEqual", [positions, last], name="inside", dtype=np.bool_)
        return graph.cast(inside, np.int64)
