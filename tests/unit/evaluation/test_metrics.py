"""Each figure is held to an implementation of others, or to one that counts, on 1,000 random cases."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import label_ranking_average_precision_score, roc_auc_score, top_k_accuracy_score
from sklearn.metrics.pairwise import euclidean_distances

from clip_search_evaluation.metrics.auroc import auroc
from clip_search_evaluation.metrics.bootstrap import LEVEL, estimate_all, resamples_of
from clip_search_evaluation.metrics.calibration import expected_calibration_error, reliability
from clip_search_evaluation.metrics.geometry import alignment, modality_gap, uniformity
from clip_search_evaluation.metrics.ranks import rank_of_scores, rank_queries
from clip_search_evaluation.metrics.retrieval import hits_at, mean_reciprocal_rank, median_rank, recall_at
from clip_search_evaluation.metrics.significance import paired_test

CASES = 1_000


def random_case(seed: int) -> np.random.Generator:
    """Random numbers of one case."""
    return np.random.default_rng(seed)


def mean_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of drawn values."""
    return lambda rows: np.array([values[rows].mean()])


def tied(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Scores of few different values, so that many are equal."""
    return random.integers(0, 6, shape) / 5.0


def random_pairs(random: np.random.Generator, queries: int, candidates: int) -> np.ndarray:
    """Right candidates of each query: one at least."""
    right = random.random((queries, candidates)) < 0.2
    right[np.arange(queries), random.integers(0, candidates, queries)] = True
    return np.argwhere(right)


def rank_by_sorting(scores: list[float], right: set[int]) -> int:
    """Sort candidates, wrong ones before right ones of the same score, and look where the first right one stands."""
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], at in right))
    return next(place for place, at in enumerate(order, 1) if at in right)


@pytest.mark.parametrize("with_ties", [False, True])
def test_ranks_are_those_of_sorting(with_ties: bool) -> None:
    """Also where scores are equal, and with several right candidates."""
    for seed in range(CASES):
        random = random_case(seed)
        queries, candidates = int(random.integers(1, 6)), int(random.integers(1, 12))
        scores = tied(random, queries, candidates) if with_ties else random.standard_normal((queries, candidates))
        pairs = random_pairs(random, queries, candidates)
        found = rank_of_scores(scores, pairs)
        for query in range(queries):
            right = {int(candidate) for of, candidate in pairs if of == query}
            assert found.ranks[query] == rank_by_sorting(scores[query].tolist(), right)
            assert found.best_right[query] in right
            assert (found.first[query] in right) == (found.ranks[query] == 1)
            assert scores[query, found.first[query]] == scores[query].max()


def test_a_model_that_scores_all_alike_finds_nothing() -> None:
    """Ties count against it: the right one of ten comes last."""
    found = rank_of_scores(np.zeros((1, 10)), np.array([[0, 3]]))
    assert found.ranks.tolist() == [10]
    assert found.first.tolist() != [3]


def test_a_query_without_a_right_candidate_is_a_bug() -> None:
    """It has no rank, so it must not come here."""
    with pytest.raises(ValueError, match="This is a bug"):
        rank_of_scores(np.ones((2, 2)), np.array([[0, 1]]))


def test_ranking_in_chunks_changes_nothing() -> None:
    """More queries than are compared at once, with their pairs in any order, rank as one by one."""
    random = random_case(0)
    queries, candidates = random.standard_normal((700, 8)), random.standard_normal((40, 8))
    pairs = random_pairs(random, 700, 40)
    random.shuffle(pairs)
    whole = rank_of_scores(queries @ candidates.T, pairs)
    chunked = rank_queries(queries, candidates, pairs)
    assert np.array_equal(whole.ranks, chunked.ranks)
    assert np.array_equal(whole.first, chunked.first)
    assert np.array_equal(whole.best_right, chunked.best_right)


def test_recall_and_top_k_are_scikit_learns() -> None:
    """With one right candidate, recall@k is top-k accuracy."""
    for seed in range(CASES):
        random = random_case(seed)
        queries, candidates = int(random.integers(2, 20)), int(random.integers(6, 12))
        scores = random.standard_normal((queries, candidates))
        right = random.integers(0, candidates, queries)
        ranks = rank_of_scores(scores, np.stack([np.arange(queries), right], axis=1)).ranks
        for k in (1, 5):
            expected = top_k_accuracy_score(right, scores, k=k, labels=np.arange(candidates))
            assert recall_at(ranks, k) == pytest.approx(expected)
            assert hits_at(ranks, k).mean() == pytest.approx(expected)


@pytest.mark.slow
def test_mean_reciprocal_rank_is_scikit_learns() -> None:
    """With one right candidate it is the label ranking average precision, ties counting against there too."""
    for seed in range(CASES):
        random = random_case(seed)
        queries, candidates = int(random.integers(1, 20)), int(random.integers(2, 12))
        scores = tied(random, queries, candidates)
        right = random.integers(0, candidates, queries)
        ranks = rank_of_scores(scores, np.stack([np.arange(queries), right], axis=1)).ranks
        expected = label_ranking_average_precision_score(np.eye(candidates, dtype=int)[right], scores)
        assert mean_reciprocal_rank(ranks) == pytest.approx(expected)


def test_median_rank_is_the_middle_of_the_sorted_ranks() -> None:
    """Of an even number, the mean of the two in the middle."""
    for seed in range(CASES):
        ranks = random_case(seed).integers(1, 50, int(random_case(seed).integers(1, 30)))
        ordered, middle = sorted(ranks.tolist()), len(ranks) // 2
        expected = ordered[middle] if len(ranks) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        assert median_rank(ranks) == expected


def test_calibration_is_scikit_learns() -> None:
    """Accuracies and confidences of the filled bins are those of its curve; the error is their weighted distance."""
    for seed in range(CASES):
        random = random_case(seed)
        count, bins = int(random.integers(1, 80)), int(random.integers(2, 20))
        confidences = random.random(count).round(2) if seed % 2 else random.random(count)
        is_right = (random.random(count) < confidences).astype(float)
        found = reliability(confidences, is_right, bins=bins)
        accuracies, means = calibration_curve(is_right, confidences, n_bins=bins, strategy="uniform")
        filled = found.counts > 0
        assert found.counts.sum() == count
        assert found.accuracies[filled] == pytest.approx(accuracies)
        assert found.confidences[filled] == pytest.approx(means)
        expected = sum(np.abs(accuracies - means) * found.counts[filled]) / count
        assert expected_calibration_error(confidences, is_right, bins=bins) == pytest.approx(expected)


def test_calibration_error_of_a_case_worked_by_hand() -> None:
    """Ten at 0.9 of which six are right are off by 0.3; ten at 0.5 of which five are right are not off."""
    confidences = np.array([0.9] * 10 + [0.5] * 10)
    is_right = np.array([1.0] * 6 + [0.0] * 4 + [1.0] * 5 + [0.0] * 5)
    assert expected_calibration_error(confidences, is_right) == pytest.approx(0.15)
    assert reliability(np.array([0.0, 1.0]), np.array([0.0, 1.0])).counts[[0, -1]].tolist() == [1, 1]


@pytest.mark.slow
def test_auroc_is_scikit_learns() -> None:
    """With and without equal scores."""
    for seed in range(CASES):
        random = random_case(seed)
        sizes = random.integers(1, 30, 2)
        scores = tied(random, int(sizes.sum())) if seed % 2 else random.standard_normal(int(sizes.sum()))
        positives, negatives = scores[: sizes[0]], scores[sizes[0] :]
        labels = np.repeat([1, 0], sizes)
        expected = roc_auc_score(labels, scores)
        assert auroc(positives, negatives) == pytest.approx(expected)


def test_the_paired_test_is_scipys_binomial_test() -> None:
    """McNemar's exact test is a fair coin over the cases that differ; so is the sign test."""
    for seed in range(CASES):
        random = random_case(seed)
        count = int(random.integers(1, 60))
        one, other = (random.integers(0, 2 if seed % 2 else 5, count).astype(float) for _ in range(2))
        found = paired_test(one, other)
        better = sum(a > b for a, b in zip(one, other, strict=True))
        worse = sum(a < b for a, b in zip(one, other, strict=True))
        assert (found.first_better, found.second_better) == (better, worse)
        expected = binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
        assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_the_paired_test_holds_for_many_cases() -> None:
    """Tens of thousands of cases neither overflow nor take long."""
    one = np.concatenate([np.ones(10_200), np.zeros(9_800)])
    assert paired_test(one, 1 - one).p_value == pytest.approx(binomtest(9_800, 20_000, 0.5).pvalue, rel=1e-6)


def test_resamples_draw_whole_groups() -> None:
    """Each draw holds as many groups as there are, and of each drawn group all members, as often as it was drawn."""
    for seed in range(CASES):
        groups = random_case(seed).integers(0, 5, int(random_case(seed).integers(1, 20)))
        members = {int(group): int((groups == group).sum()) for group in groups}
        (rows,) = resamples_of(groups, 1, seed)
        drawn = 0
        for group, size in members.items():
            times = {int((rows == row).sum()) for row in np.flatnonzero(groups == group)}
            assert len(times) == 1
            drawn += times.pop()
            assert size > 0
        assert drawn == len(members)


def test_estimates_are_quantiles_of_the_figures_of_each_draw() -> None:
    """Computed anew, draw by draw."""
    for seed in range(CASES):
        random = random_case(seed)
        values = random.standard_normal(int(random.integers(1, 12)))
        groups = random.integers(0, 4, values.size)
        (found,) = estimate_all(mean_of(values), groups, resamples=9, seed=seed)
        means = sorted(float(np.mean(values[rows])) for rows in resamples_of(groups, 9, seed))
        at = (1 - LEVEL) / 2 * 8
        low = means[0] + (means[1] - means[0]) * at
        high = means[-1] - (means[-1] - means[-2]) * at
        assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 samples of 60 coins of 0.7, the intervals hold 0.7 in about 95 %; with pairs of equal coins too."""
    for copies in (1, 2):
        held = 0
        for seed in range(300):
            coins = np.repeat(random_case(seed).random(60) < 0.7, copies).astype(float)
            groups = np.repeat(np.arange(60), copies)
            (found,) = estimate_all(mean_of(coins), groups, resamples=200, seed=seed)
            held += found.low <= 0.7 <= found.high
        assert 0.90 <= held / 300 <= 0.98


def test_the_same_draws_serve_figures_that_are_compared() -> None:
    """So a difference of figures that always agree has no width."""
    values = random_case(0).random(30)
    groups = np.arange(30)
    one = estimate_all(lambda rows: np.array([values[rows].mean()]), groups)
    other = estimate_all(lambda rows: np.array([values[rows].mean(), values[rows].max()]), groups)
    assert one[0] == other[0]


def test_geometry_is_what_counting_gives() -> None:
    """Gap, alignment and uniformity, pair by pair."""
    for seed in range(CASES):
        random = random_case(seed)
        count, dim = int(random.integers(2, 12)), int(random.integers(1, 6))
        one, other = (random.standard_normal((count, dim)) for _ in range(2))
        one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
        assert modality_gap(one, other) == pytest.approx(math.dist(one.mean(axis=0), other.mean(axis=0)))
        assert alignment(one, other) == pytest.approx(
            np.mean([math.dist(a, b) ** 2 for a, b in zip(one, other, strict=True)])
        )
        squared = euclidean_distances(one, squared=True)
        terms = [math.exp(-2 * squared[a, b]) for a in range(count) for b in range(a)]
        assert uniformity(one) == pytest.approx(math.log(sum(terms) / len(terms)), abs=1e-9)
