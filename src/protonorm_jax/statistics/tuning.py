"""What a smaller tuning budget would have come to."""

import math
from collections.abc import Sequence

import numpy as np


def budget_curve(
    validation: Sequence[float | None],
    test: Sequence[float | None],
    diverged: Sequence[int] | None = None,
) -> np.ndarray:
    """The expected test accuracy of the choice among n of the N settings that were tried.

    The mean over all subsets of n. With the settings in the order in which they would be chosen,
    number r (from 0) is the choice in C(N - 1 - r, n - 1) of the C(N, n) subsets. The expectation
    is that of Dodge et al. (EMNLP 2019), without replacement and of the accuracy that was not
    chosen by.

    Args:
      validation: `[N]` by which is chosen, the first of equals; None for what is chosen last.
      test: `[N]` of the same settings; None where it is not known.
      diverged: `[N]` how many runs of each have: fewer go before more, whatever the accuracy.

    Returns:
      `[N]` float64, for n = 1..N; NaN where a setting could be chosen whose accuracy is not known.

    Raises:
      ValueError: the lengths differ.
    """
    count = len(validation)
    diverged = [0] * count if diverged is None else diverged
    if not count == len(test) == len(diverged):
        raise ValueError(f"lengths must be equal, got {count}, {len(test)} and {len(diverged)}")

    def rank(number: int) -> tuple[int, float]:
        accuracy = validation[number]
        return diverged[number], math.inf if accuracy is None else -accuracy

    order = sorted(range(count), key=rank)
    found = [test[number] for number in order]
    values = np.array([math.nan if value is None else value for value in found], float)
    result = np.empty(count)
    for size in range(1, count + 1):
        # No weight is 0, so that what is not known is not hidden.
        chosen = values[: count - size + 1]
        weights = [math.comb(count - 1 - place, size - 1) for place in range(len(chosen))]
        shares = np.array([weight / math.comb(count, size) for weight in weights])
        result[size - 1] = shares @ chosen
    return result
