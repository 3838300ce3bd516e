"""How large a batch may be, and how much of it padding; knows nothing of what is batched.

An input has a length in units of work: 1 for a picture, its tokens for a text. Inputs of a batch are padded to its
longest, so a batch costs its longest length times its inputs.
"""

from dataclasses import dataclass

__all__ = ["BatchBounds", "BatchShape"]


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """The largest batch.

    Args:
        size_max: inputs in it.
        units_max: units of work in it, padding included. A single input may exceed it, and then runs alone.
        padding_max: units of padding in it: what they cost should be no more than another batch for the odd lengths.
    """

    size_max: int
    units_max: int
    padding_max: int = 0


@dataclass(slots=True)
class BatchShape:
    """What is in a batch so far."""

    size: int = 0
    longest: int = 0
    used_units: int = 0

    @property
    def units(self) -> int:
        """Units of work, padding included."""
        return self.size * self.longest

    @property
    def padding_units(self) -> int:
        """Units of work that are spent on padding."""
        return self.units - self.used_units

    def with_input(self, length: int) -> "BatchShape":
        """Return the shape with one more input."""
        return BatchShape(self.size + 1, max(self.longest, length), self.used_units + length)

    def fits(self, bounds: BatchBounds) -> bool:
        """Tell whether such a batch is allowed; one input always is."""
        if self.size <= 1:
            return True
        within = self.size <= bounds.size_max and self.units <= bounds.units_max
        return within and self.padding_units <= bounds.padding_max
