"""Whether two models differ by more than chance on the same cases; knows nothing of models.

Both tests are exact and two-sided, and both look only at the cases in which the models differ: were they equally good,
each such case would favour either with probability ½. For cases that are right or wrong this is McNemar's test
(Psychometrika 12, 1947) in its exact form (Edwards 1948; Fagerland, Lydersen and Laake 2013 compare the forms); for
ranks it is the sign test (Arbuthnot 1710; Dixon and Mood 1946), which asks only which model ranks the right candidate
higher. They take cases as independent; where they are not (captions of one picture), the interval of the difference is
the one to read.
"""

import math
from dataclasses import dataclass

import numpy as np

from clip_search_evaluation.metrics.arrays import FloatArray

__all__ = ["PairedTest", "paired_test"]


@dataclass(frozen=True, slots=True)
class PairedTest:
    """How many cases favour each of two models, and how probable a split as uneven would be by chance alone."""

    first_better: int
    second_better: int
    p_value: float


def paired_test(first: FloatArray, second: FloatArray) -> PairedTest:
    """Compare the scores of two models, case by case.

    Args:
        first: (cases,), higher is better: 1 and 0 for right and wrong (McNemar's test), or any other (sign test).
        second: (cases,), of the other model on the same cases.
    """
    first_better = int(np.count_nonzero(first > second))
    second_better = int(np.count_nonzero(second > first))
    return PairedTest(first_better, second_better, _two_sided(first_better, first_better + second_better))


def _two_sided(successes: int, trials: int) -> float:
    """Return the probability that a fair coin splits as unevenly as this, or more so."""
    fewer = min(successes, trials - successes)
    log_choose = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(fewer + 1)]
    tail = math.fsum(math.exp(each - trials * math.log(2)) for each in log_choose)
    return min(1.0, 2 * tail)
