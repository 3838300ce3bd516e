"""The reference's own parts, against definitions that are simpler still."""

import math

import numpy as np

from clip_search_export.reference.layers import ActivationRange, attention, erf, layer_norm
from clip_search_export.weights import LayerNorm


def test_the_error_function_is_exact_to_twelve_digits() -> None:
    """The interpolated error function equals math.erf everywhere, tails and zero included."""
    x = np.concatenate([np.linspace(-8, 8, 10_007), [0.0, 1e-9, -1e-9, 1e6, -1e6]])
    expected = np.array([math.erf(value) for value in x])
    assert np.abs(erf(x) - expected).max() < 1e-12


def test_layer_norm_gives_mean_zero_and_variance_one() -> None:
    """Without gain and bias, each row has mean 0 and variance 1, up to the epsilon."""
    x = np.random.RandomState(0).standard_normal((5, 64)) * 7 + 3
    norm = LayerNorm(gain=np.ones(64, dtype=np.float32), bias=np.zeros(64, dtype=np.float32), epsilon=1e-12)
    normalized = layer_norm(x, norm)
    assert np.abs(normalized.mean(axis=-1)).max() < 1e-12
    assert np.abs(normalized.var(axis=-1) - 1).max() < 1e-9


def test_attention_averages_values_of_equal_keys() -> None:
    """Where all keys are equal every query gets the mean value, and the causal one the mean of what it sees."""
    value = np.random.RandomState(0).standard_normal((2, 6, 8))
    key = np.ones((2, 6, 8))
    assert np.allclose(attention(key, key, value, heads=2), value.mean(axis=1, keepdims=True))
    running = np.cumsum(value, axis=1) / np.arange(1, 7)[:, None]
    assert np.allclose(attention(key, key, value, heads=2, causal=True), running)


def test_attention_attends_per_head() -> None:
    """A query that matches one key strongly in one head takes that head's part of its value, and no other part."""
    key = np.zeros((1, 3, 4))
    key[0, 1, :2] = 100.0  # the second key stands out in the first head only
    value = np.arange(12.0).reshape(1, 3, 4)
    attended = attention(np.ones((1, 1, 4)), key, value, heads=2)
    assert np.allclose(attended[0, 0, :2], value[0, 1, :2])
    assert np.allclose(attended[0, 0, 2:], value[0, :, 2:].mean(axis=0))


def test_the_range_of_activations_is_remembered() -> None:
    """The largest magnitude seen so far, of either sign, is kept."""
    seen = ActivationRange()
    for value in (3.0, -40_000.0, 5.0):
        seen.see(np.array([value, 1.0]))
    assert seen.max == 40_000.0
