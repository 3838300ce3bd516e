"""Fits `vectors.json` to the demo model's embeddings of the demo's pictures and texts, and checks the likeness.

    clip-search export demo .bench/demo-bundle
    python -m bench.index.fit_vectors --bundle .bench/demo-bundle            # fit, check, write
    python -m bench.index.fit_vectors --bundle .bench/demo-bundle --check    # check the committed file, write nothing

The check: a deliberately poor graph (so that it misses enough to compare) over the real pictures and over as many
generated ones, searched with the real texts and with generated ones. Prints one JSON line with both recalls. Generated
vectors may be harder by `HARDER_MAX` and easier by `EASIER_MAX`, else exit 1 and nothing is written.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import numpy as np

from bench.index.vectors import FITTED, PICTURES_PER_CONCEPT, FloatArray, Parameters, Space, fit, nearest_cosine
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.index import IndexSettings
from clip_search_server.index.hnswlib_segment import HnswlibEngine
from clip_search_server.index.tuning import recall_at
from clip_search_server.limits import Limits
from demo.samples import draw_samples

WORK = Path(__file__).resolve().parents[2] / ".bench"
POOR = IndexSettings(graph_links=5, ef_construction=20, build_threads=1)
EF = 10
HARDER_MAX, EASIER_MAX = 0.15, 0.05


def main() -> int:
    """Embed, fit, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True, help="the exported demo bundle")
    parser.add_argument("--samples", type=Path, default=WORK / "samples", help="folder to draw the pictures in")
    parser.add_argument("--check", action="store_true", help="compare the committed parameters, and write nothing")
    arguments = parser.parse_args()
    pictures, texts = asyncio.run(_embed(arguments.bundle, arguments.samples))
    source = f"the demo model: {len(pictures)} OpenMoji pictures and their names"
    parameters = Parameters.load() if arguments.check else fit(pictures, texts, source)
    space = Space(parameters, dim=pictures.shape[1], concepts=len(pictures) // PICTURES_PER_CONCEPT, seed=1)
    made_pictures, made_texts = space.pictures(len(pictures)), space.texts(len(texts))
    real, made = _figures(pictures, texts), _figures(made_pictures, made_texts)
    print(json.dumps({"bench": "fit_vectors", "within_share": parameters.within_share, "real": real, "made": made}))
    alike = all(-HARDER_MAX <= made[name] - real[name] <= EASIER_MAX for name in ("recall_texts", "recall_pictures"))
    if alike and not arguments.check:
        parameters.save(FITTED)
    return 0 if alike else 1


async def _embed(bundle: Path, folder: Path) -> tuple[FloatArray, FloatArray]:
    """Return the vectors of all sample pictures and of their names, (samples, dim) each."""
    samples = draw_samples(folder)
    encoder = Encoder.open(Bundle.open(bundle), Limits(), device="cpu")
    bulk = Urgency(bulk=True)
    try:
        files = (folder / "pictures" / sample.file for sample in samples)
        pictures = await asyncio.gather(*(encoder.embed_image(file.read_bytes(), bulk) for file in files))
        texts = await asyncio.gather(*(encoder.embed_text(sample.name, bulk) for sample in samples))
    finally:
        await encoder.close()
    return np.stack(pictures), np.stack(texts)


def _figures(pictures: FloatArray, texts: FloatArray) -> dict[str, float]:
    """Return what both kinds of vectors are compared by."""
    stored, others = np.ascontiguousarray(pictures[::2]), pictures[1::2]  # The samples are sorted by subject.
    whole = HnswlibEngine(POOR).build(pictures, lambda: False)
    part = HnswlibEngine(POOR).build(stored, lambda: False)
    best = np.sort(texts @ pictures.T, axis=1)
    figures = {
        "recall_texts": recall_at(whole, pictures, texts, EF),
        "recall_pictures": recall_at(part, stored, others, EF),
        "nearest_picture_cosine": nearest_cosine(pictures),
        "best_text_cosine": float(best[:, -1].mean()),
        "tenth_text_cosine": float(best[:, -10].mean()),
        "median_text_cosine": float(np.median(best)),
    }
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    sys.exit(main())
