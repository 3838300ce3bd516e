"""Phrases beyond the captions, each with the concepts that a sentence encoder finds it close to.

Captions hold the words that emoji lists use; people type others. WordNet gives tens of thousands of definitions,
examples and words, and a pretrained sentence encoder (Universal Sentence Encoder lite, Cer et al. 2018,
arXiv:1803.11175) says how near each is to what every concept is called. The text tower learns to give the same answer:
knowledge distillation (Hinton et al. 2015, arXiv:1503.02531), with concepts for classes. Knows nothing of pictures.
Phrases of `queries.tsv` are left out.
"""

import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo.training.captions import Concept, comparable
from demo.training.wordnet import WordNet

#: Concepts kept for each phrase; the rest of the teacher's probability is dropped.
KEPT = 32
_DIMENSION = 512
_PROCESSES = 2
_WORDS_MAX = 16
#: How sharply a concept is known by its nearest terms rather than by all of them, per unit of cosine.
_TERM_SHARPNESS = 12.0
#: How sharply the teacher prefers the nearest concept, per unit of cosine.
_CONCEPT_SHARPNESS = 40.0
_SMALLEST_SHARE = 0.02
_TEMPLATES = {
    "noun": ("{}", "{}", "something for {}", "thing used for {}", "{} time", "a place for {}", "things for {}", "{}s"),
    "verb": (
        "{}",
        "something to {} with",
        "things people {}",
        "a place to {}",
        "someone who wants to {}",
        "time to {}",
    ),
    "adj": ("{}", "something {}", "someone {}", "feeling {}", "{} things", "{} person", "{} animal", "{} place"),
}


@dataclass(frozen=True, slots=True)
class Phrases:
    """Phrases and what the teacher says of them.

    texts: count strings.
    concepts: int64 (count, KEPT) concept numbers, nearest first.
    shares: float32 (count, KEPT), each row adding up to 1.
    weights: float64 (count,), how often a phrase is drawn; adds up to 1.
    """

    texts: list[str]
    concepts: np.ndarray
    shares: np.ndarray
    weights: np.ndarray


def collect(wordnet: WordNet, concepts: list[Concept], held_out_phrases: set[str], rng: random.Random) -> list[str]:
    """Return distinct phrases: definitions, examples, words in templates, and qualities joined to concept names."""
    found: list[str] = []
    adjectives = [word for entry in wordnet.entries("adj") for word in entry.common_words]
    for part_of_speech, templates in _TEMPLATES.items():
        for entry in wordnet.entries(part_of_speech):
            if not entry.is_everyday:
                continue
            found += (" ".join(sentence.split()[:_WORDS_MAX]) for sentence in (entry.definition, *entry.examples))
            found += (rng.choice(templates).format(word) for word in entry.common_words)
    found += (f"{rng.choice(adjectives)} {concept.name}" for concept in concepts for _ in range(3))
    distinct = {comparable(phrase): phrase.lower() for phrase in found}
    return [phrase for key, phrase in distinct.items() if key and key not in held_out_phrases]


def embed(folder: Path, texts: list[str]) -> np.ndarray:
    """Return the teacher's unit vectors, float32 (texts, 512); Node.js runs it, from the packages in `folder`.

    Raises:
        subprocess.CalledProcessError: when the program fails.
    """
    script = Path(__file__).parent / "teacher" / "embed.mjs"
    running = []
    for number in range(_PROCESSES):
        source, target = folder / f"teacher-{number}.json", folder / f"teacher-{number}.f32"
        source.write_text(json.dumps(texts[number::_PROCESSES]))
        command = ["node", str(script), str(source.resolve()), str(target.resolve())]
        running.append((subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL), source, target))
    vectors = np.empty((len(texts), _DIMENSION), np.float32)
    for number, (process, source, target) in enumerate(running):
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
        vectors[number::_PROCESSES] = np.fromfile(target, "<f4").reshape(-1, _DIMENSION)
        source.unlink()
        target.unlink()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def teach(
    phrase_vectors: np.ndarray, term_vectors: np.ndarray, concepts: list[Concept], terms: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each phrase's nearest concepts int64 (phrases, KEPT), their shares, and the cosine-like score of the best.

    A concept's score for a phrase is the weighted log-mean-exp of the cosines of its terms: near one of its names is
    near enough.

    Args:
        phrase_vectors: unit vectors (phrases, d).
        term_vectors: unit vectors (terms, d), in the order of `terms`.
        concepts: whose terms are all in `terms`.
        terms: what `term_vectors` stand for.
    """
    number = {term: i for i, term in enumerate(terms)}
    owners = np.concatenate([np.full(len(c.terms), n) for n, c in enumerate(concepts)])
    columns = np.concatenate([[number[term] for term in c.terms] for c in concepts]).astype(np.int64)
    weights = np.concatenate([np.array(list(c.terms.values())) / sum(c.terms.values()) for c in concepts]).astype(
        np.float32
    )
    starts = np.searchsorted(owners, np.arange(len(concepts)))
    kept = min(KEPT, len(concepts))
    nearest, shares, best = [], [], []
    for start in range(0, len(phrase_vectors), 1024):
        cosines = phrase_vectors[start : start + 1024] @ term_vectors.T
        sums = np.add.reduceat(np.exp(_TERM_SHARPNESS * cosines)[:, columns] * weights, starts, axis=1)
        scores = np.log(sums) / _TERM_SHARPNESS
        top = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1), axis=1)
        score = np.take_along_axis(scores, top, axis=1)
        share = np.exp(_CONCEPT_SHARPNESS * (score - score[:, :1]))
        share[share < _SMALLEST_SHARE * share.sum(1, keepdims=True)] = 0  # else a batch may lack every better answer
        nearest.append(top)
        shares.append((share / share.sum(1, keepdims=True)).astype(np.float32))
        best.append(score[:, 0])
    return np.concatenate(nearest), np.concatenate(shares), np.concatenate(best)


def load_phrases(folder: Path, concepts: list[Concept], held_out_phrases: set[str]) -> Phrases:
    """Return the phrases and the teacher's answers, made once into `folder` (about ten minutes on two cores)."""
    cache = folder / "phrases.npz"
    if not cache.exists():
        wordnet = WordNet(folder / "debian/usr/share/wordnet")
        texts = collect(wordnet, concepts, held_out_phrases, random.Random(0))
        terms = sorted({term for concept in concepts for term in concept.terms})
        vectors = embed(folder, texts + terms)
        nearest, shares, best = teach(vectors[: len(texts)], vectors[len(texts) :], concepts, terms)
        np.savez(cache, texts=np.array(texts), concepts=nearest, shares=shares, best=best)
    with np.load(cache) as stored:
        weights = np.clip(stored["best"] - 0.4, 0.02, 0.4)  # what is far from every concept is rarely worth a look
        texts = stored["texts"].tolist()
        return Phrases(texts, stored["concepts"], stored["shares"], weights / weights.sum())
