"""The ceilings that shares are measured against."""

import pytest

from bench.towers.loads import Load, attention, convolution, linear, transformer
from bench.towers.machine import Ceiling, fp32_flops, int8_ops, memory_bytes

CEILING = Ceiling(flops=100e9, memory_bytes=10e9, weight_bytes=4)


def test_work_of_many_operations_is_bound_by_arithmetic() -> None:
    """A weight used often costs its operations."""
    load = Load(flops=50e9, weights=10_000_000)
    assert CEILING.seconds(load) == pytest.approx(0.5)
    assert CEILING.bound(load) == "arithmetic"


def test_work_that_uses_each_weight_once_is_bound_by_memory() -> None:
    """The ceiling is the bytes of the weights by the bandwidth, and a quarter of it with 8-bit weights."""
    load = Load(flops=0.1e9, weights=50_000_000)
    assert CEILING.seconds(load) == pytest.approx(0.02)
    assert CEILING.bound(load) == "memory"
    assert Ceiling(100e9, 10e9, 1).seconds(load) == pytest.approx(0.005)


def test_a_batch_multiplies_operations_and_shares_weights() -> None:
    """Layers multiply both."""
    load = linear(rows=2, inputs=3, outputs=5)
    assert load == Load(60, 15)
    assert load.times(4) == Load(240, 15)
    assert load.repeated(4) == Load(240, 60)
    assert load + attention(queries=2, keys=3, width=7) == Load(60 + 168, 15)


def test_loads_of_layers_are_those_of_their_products() -> None:
    """A block has four projections and two layers of an MLP; a convolution is a product a place."""
    tokens, width = 10, 8
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    assert transformer(tokens, width, 4 * width, layers=3) == Load(3 * block, 3 * 12 * width**2)
    assert convolution(side=4, inputs=3, outputs=5, kernel=3) == Load(2 * 16 * 27 * 5, 27 * 5)


def test_the_machine_is_measured() -> None:
    """Small sizes: that figures come out, not how large they are."""
    assert fp32_flops(64) > 0
    assert int8_ops(64) > 0
    assert memory_bytes(1 << 20) > 0
