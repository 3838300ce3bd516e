"""Unit vectors and cosines, the same for every path of a search; knows nothing of items or storage.

Finding candidates may use any arithmetic (a graph engine's, BLAS in any blocking). The score that is returned, and the
order, always come from `cosines`, whose result for a row does not depend on which other rows are scored with it.
"""

import numpy as np
import numpy.typing as npt

from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index.types import FloatArray, IntArray

# How far a single-precision BLAS product may lie from `cosines`; candidates this close to the cut are kept.
SCORE_SLACK = 1e-5

# Few enough to stay in a processor's cache, many enough that calls cost nothing.
_ROWS_AT_ONCE = 1024

# A vector this close to unit length is kept bit for bit, so that what `get` returned can be written back unchanged.
_UNIT_TOLERANCE = 1e-6


def unit_vector(vector: npt.ArrayLike, dim: int, field: str) -> FloatArray:
    """Return `vector` as float32 (dim,) of unit length.

    Raises:
        InvalidArgumentError: naming `field`: another shape, a NaN or infinite component, or zero length.
    """
    values = np.asarray(vector)
    if values.shape != (dim,):
        shown = values.size if values.ndim == 1 else f"shape {values.shape}"
        raise InvalidArgumentError(field, f"must have {dim} components, not {shown}")
    if values.dtype.kind not in "fiu":
        raise InvalidArgumentError(field, f"must hold numbers, not {values.dtype}")
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise InvalidArgumentError(field, "must be finite; it has a NaN or infinite component")
    length = float(np.linalg.norm(exact))
    if length == 0.0 or not np.isfinite(length):
        raise InvalidArgumentError(field, "must not have zero length" if length == 0.0 else "is too long to normalize")
    if abs(length - 1.0) > _UNIT_TOLERANCE:
        exact /= length
    # Adding zero turns -0.0 into 0.0, so that equal vectors have equal bytes.
    return exact.astype(np.float32) + np.float32(0.0)


def cosines(vectors: FloatArray, query: FloatArray) -> FloatArray:  # (rows, dim), (dim,) -> (rows,)
    """Return the cosine of each unit row with the unit query, in [-1, 1].

    The products are summed in double precision row by row, so a row's score is the same bit for bit whatever rows
    surround it.
    """
    products = vectors.astype(np.float64) * query.astype(np.float64)  # (rows, dim)
    scores: FloatArray = np.clip(products.sum(axis=1), -1.0, 1.0).astype(np.float32)
    return scores


def scan(vectors: FloatArray, query: FloatArray) -> FloatArray:  # (rows, dim), (dim,) -> (rows,)
    """Return each row's approximate cosine with the query, as fast as memory allows; see `SCORE_SLACK`.

    One thread does it. A product of a matrix and a vector takes all processors, whose threads wait for each other by
    spinning: beside anything else that computes, it is several times slower, and slows that down too.
    """
    # A memory-mapped array is a class of its own, which makes calls slower.
    scores: FloatArray = np.vecdot(np.asarray(vectors), query)
    return scores


def scan_some(vectors: FloatArray, rows: IntArray, query: FloatArray) -> FloatArray:  # -> (len(rows),)
    """Return the approximate cosines of some rows; what is copied of them at one time is bounded."""
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        scores[start : start + len(some)] = scan(vectors[some], query)
    return scores


def best_rows(scores: FloatArray, count: int) -> IntArray:  # (rows,) -> (at least min(count, rows),)
    """Return the rows that may be among the `count` best by `cosines`: the best, and all within the slack."""
    if count >= len(scores):
        return np.arange(len(scores))
    cut = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= cut - SCORE_SLACK)
