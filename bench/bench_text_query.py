"""Time of one short text search over gRPC, beside optimum's text tower on the same weights.

    make .venv-parity/.bench-stamp       once, for the set-up that has optimum
    .venv-parity/bin/python -m bench.bench_text_query

A ViT-B/32 of true shapes with random weights is exported without torch and served by a real `clip-search serve` with
1,000 vectors indexed; each query is a text not seen before (so no cache answers it). The peer is what a typical ONNX
server runs for the same text: optimum's text tower, padded to 77 tokens, called directly, without any server around
it. Both run in ONNX Runtime with the same number of threads, one query each in turn. The ceiling is memory: a single
short text reads every text weight once (151 MB in FP32).

Ends with one JSON line: median milliseconds of both and their ratio. The bar is 0.4.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import grpc
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from bench.towers.models import MODELS
from bench.towers.optimum_towers import export_towers
from clip_search.v1 import content_pb2, index_pb2, index_pb2_grpc, item_pb2, search_pb2, search_pb2_grpc
from demo.server_process import ServerProcess, program

WORK = Path(__file__).resolve().parent.parent / ".bench"
QUERIES, WARM_UP = 100, 10
TOKENS = 8
RATIO_MAX = 0.4


def main() -> int:
    """Prepare, measure, print; exit 1 when the bar is missed."""
    checkpoint = MODELS["vit-b-32"].write(WORK / "random-vit-b-32")
    bundle, export_s = _export(checkpoint)
    peer = _Peer(checkpoint)
    log = WORK / "server.log"
    with ServerProcess.start(bundle, WORK / f"data-{time.time_ns()}", log=log) as server:
        ours_ms, peer_ms = _measure(server.address, peer)
    ratio = median(ours / theirs for ours, theirs in zip(ours_ms, peer_ms, strict=True))
    figures = {
        "bench": "text_query",
        "tokens": TOKENS,
        "export_s": round(export_s, 1),
        "clip_search_grpc_ms": round(median(ours_ms), 2),
        "optimum_tower_ms": round(median(peer_ms), 2),
        "ratio_median": round(ratio, 3),
        "ratio_max": RATIO_MAX,
        "queries": QUERIES,
    }
    print(json.dumps(figures))
    return 0 if ratio <= RATIO_MAX else 1


def _export(checkpoint: Path) -> tuple[Path, float]:
    """Export anew and return the bundle and the seconds it took, gates included."""
    bundle = WORK / f"bundle-{time.time_ns()}"
    started = time.monotonic()
    subprocess.run([program("clip-search"), "export", str(checkpoint), str(bundle)], check=True)
    return bundle, time.monotonic() - started


class _Peer:
    """optimum's text tower in a session of its own."""

    def __init__(self, checkpoint: Path) -> None:
        _, graph = export_towers(checkpoint, WORK / f"{checkpoint.name}-optimum")
        self._session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self._tokenizer.enable_padding(length=77, pad_id=49_407)

    def run(self, text: str) -> None:
        """Tokenize, pad to 77 and embed `text`."""
        encoding = self._tokenizer.encode(text)
        if sum(encoding.attention_mask) != TOKENS:
            raise RuntimeError(f"{text!r} has not {TOKENS} tokens. This is a bug.")
        inputs = {
            "input_ids": np.array([encoding.ids], np.int64),
            "attention_mask": np.array([encoding.attention_mask], np.int64),
        }
        self._session.run(["text_embeds"], inputs)


def _measure(address: str, peer: _Peer) -> tuple[list[float], list[float]]:
    """Return milliseconds of each query, ours and the peer's, taken in turn."""
    random = np.random.default_rng(11)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    texts = ["".join(random.choice(letters, TOKENS - 2)) for _ in range(QUERIES + WARM_UP)]
    ours, theirs = [], []
    with grpc.insecure_channel(address) as channel:
        _fill(channel, random)
        stub = search_pb2_grpc.SearchServiceStub(channel)
        for text in texts:
            part = search_pb2.QueryPart(content=content_pb2.Content(text=text))
            started = time.perf_counter()
            stub.Search(search_pb2.SearchRequest(parts=[part], limit=10), timeout=30)
            between = time.perf_counter()
            peer.run(text)
            ended = time.perf_counter()
            ours.append((between - started) * 1e3)
            theirs.append((ended - between) * 1e3)
    return ours[WARM_UP:], theirs[WARM_UP:]


def _fill(channel: grpc.Channel, random: np.random.Generator) -> None:
    vectors = random.standard_normal((1_000, 512))
    items = [
        item_pb2.Item(id=f"{number}", content=content_pb2.Content(vector=content_pb2.Vector(values=vector.tolist())))
        for number, vector in enumerate(vectors)
    ]
    index_pb2_grpc.IndexServiceStub(channel).Upsert(index_pb2.UpsertRequest(items=items), timeout=60)


if __name__ == "__main__":
    sys.exit(main())
