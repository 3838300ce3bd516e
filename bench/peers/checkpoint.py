"""A ViT-B/32 with random weights and CLIP's own vocabulary, in Hugging Face layout; knows nothing of servers.

clip-as-service has the vocabulary built in, so every other server must be given the same, or the ids would differ. It
is read from the file that the package `clip-server` ships.
"""

import gzip
import json
import subprocess
from pathlib import Path

from bench.towers.random_vit import ClipVit

__all__ = ["write_checkpoint"]

_SHIPPED = "resources/bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49_152 - 256 - 2
"""How many of the file's merges CLIP uses (openai/CLIP, simple_tokenizer.py)."""
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_checkpoint(folder: Path, clip_as_service_python: str) -> Path:
    """Write the checkpoint into `folder` once, and return it; the vocabulary comes from that Python's packages.

    Raises:
        SystemExit: the package `clip-server` is not there.
    """
    ClipVit().write(folder)
    merges = _read_merges(clip_as_service_python)
    vocabulary = {word: number for number, word in enumerate(_words(merges))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    # The tokenizer of single letters that came with the weights would be read in place of these two files.
    (folder / "tokenizer.json").unlink(missing_ok=True)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | special))
    return folder


def _read_merges(python: str) -> list[str]:
    command = [
        python,
        "-c",
        "import importlib.util as u; print(u.find_spec('clip_server').submodule_search_locations[0])",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{python}: the package clip-server is not installed there. Run `make bench-peers`.")
    with gzip.open(Path(found.stdout.strip()) / _SHIPPED, "rt", encoding="utf-8") as file:
        return file.read().split("\n")[1 : _MERGES + 1]


def _words(merges: list[str]) -> list[str]:
    """Return CLIP's vocabulary in the order of its ids: bytes, bytes that end a word, merges, special tokens."""
    letters = _byte_letters()
    joined = ["".join(merge.split()) for merge in merges]
    return [*letters, *(f"{letter}</w>" for letter in letters), *joined, _START, _END]


def _byte_letters() -> list[str]:
    """Return the letters that stand for bytes: printable ones for themselves first, then the others from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
