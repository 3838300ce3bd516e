"""How much arithmetic and how many weights a tower's work takes; knows nothing of machines or of how towers are run."""

from dataclasses import dataclass

__all__ = ["Load", "attention", "convolution", "linear", "transformer"]


@dataclass(frozen=True, slots=True)
class Load:
    """Floating-point operations (a multiplication and an addition are two), and weights that are read once a batch.

    Tables of which a few rows are read, biases and normalizations are left out.
    """

    flops: float
    weights: int

    def __add__(self, other: "Load") -> "Load":
        return Load(self.flops + other.flops, self.weights + other.weights)

    def times(self, batch: int) -> "Load":
        """Return the load of `batch` inputs, which share the weights."""
        return Load(self.flops * batch, self.weights)

    def repeated(self, count: int) -> "Load":
        """Return the load of `count` layers with weights of their own."""
        return Load(self.flops * count, self.weights * count)


def linear(rows: int, inputs: int, outputs: int) -> Load:
    """Return the load of a linear layer applied to `rows` vectors."""
    return Load(2.0 * rows * inputs * outputs, inputs * outputs)


def attention(queries: int, keys: int, width: int) -> Load:
    """Return the load of the two products inside an attention, which have no weights."""
    return Load(4.0 * queries * keys * width, 0)


def transformer(tokens: int, width: int, hidden: int, layers: int) -> Load:
    """Return the load of a stack of transformer blocks, every one of which sees all tokens."""
    block = linear(tokens, width, 4 * width) + attention(tokens, tokens, width) + linear(tokens, width, 2 * hidden)
    return block.repeated(layers)


def convolution(side: int, inputs: int, outputs: int, kernel: int) -> Load:
    """Return the load of a square convolution whose result has `side` by `side` places."""
    return linear(side * side, inputs * kernel * kernel, outputs)
