"""What goes wrong in an evaluation, beyond what the client raises; knows nothing of how it is told.

EvaluationError
└── DataError      the data cannot be read: names the file, and the line or field
"""

__all__ = ["DataError", "EvaluationError"]


class EvaluationError(Exception):
    """The evaluation cannot be made; the message says why and what to do."""


class DataError(EvaluationError):
    """A file of the data is not as it must be; the message begins with the file and the line or field."""
