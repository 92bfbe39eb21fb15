"""Means, intervals and corrections of arrays: scipy's, and what honest figures need beside them.

What cannot be said is None: an interval of one value, or of values that are all the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # Its rooms are imported when they are used: `scipy.stats` alone takes a second.
from numpy.typing import ArrayLike

LEVEL = 0.95
FEWEST_TO_RESAMPLE = 10
"""With fewer values, a bootstrap has too little to draw from."""
FEWEST_SETS = 10
"""With fewer data sets there is no critical difference."""
_RESAMPLES = 9999
_ENDLESS = 1e99  # In the place of infinity, of which scipy would make a warning.
_SEED = 0  # That the same runs give the same page.


class Interval(NamedTuple):
    """A confidence interval, by default at 95 %.

    Attributes:
      low: its lower end.
      high: its upper end.
    """

    low: float
    high: float


def are_same(values: ArrayLike) -> bool:
    """Whether values differ by no more than rounding."""
    array = np.asarray(values, float)
    return bool(np.ptp(array) <= 1e-12 * max(1.0, float(np.abs(array).max())))


def deviation(values: ArrayLike) -> float | None:
    """The standard deviation of a sample (divided by n - 1), or None of fewer than two values."""
    array = np.asarray(values, float)
    return float(array.std(ddof=1)) if len(array) > 1 else None


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Student's interval of the mean; None of one value, or of values that are all the same.

    Args:
      values: `[n]`, drawn independently.
      level: of confidence.
    """
    array = np.asarray(values, float)
    if len(array) < 2 or are_same(array):
        return None
    found = scipy.stats.ttest_1samp(array, 0.0).confidence_interval(level)
    return Interval(float(found.low), float(found.high))


def t_test(differences: ArrayLike) -> float | None:
    """The two-sided p value of a mean of zero, where `t_interval` has an interval."""
    array = np.asarray(differences, float)
    if len(array) < 2 or are_same(array):
        return None
    return float(scipy.stats.ttest_1samp(array, 0.0).pvalue)


def bootstrap_t(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """The bootstrap-t interval of the mean (Efron and Tibshirani 1993, section 12.5).

    The values are resampled as they are; what their mean is off from the true mean, in standard
    errors, is taken to be spread as what a resample's mean is off from theirs, in its own. Unlike
    Student's interval it may be askew.

    Args:
      values: `[n]`, drawn independently.
      level: of confidence.

    Returns:
      None of fewer than `FEWEST_TO_RESAMPLE` values, of values that are all the same, or where so
      many are the same that resamples without any spread decide.
    """
    array = np.asarray(values, float)
    if len(array) < FEWEST_TO_RESAMPLE or are_same(array):
        return None
    mean, error = array.mean(), array.std() / np.sqrt(len(array))

    def studentised(sample: np.ndarray, axis: int) -> np.ndarray:
        off = sample.mean(axis) - mean
        own = sample.std(axis) / np.sqrt(sample.shape[axis])
        spread = own > 1e-9 * error
        return np.where(spread, off / np.where(spread, own, 1.0), np.copysign(_ENDLESS, off))

    drawn = _resampled((array,), studentised)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], method="nearest")
    if max(abs(low), abs(high)) == _ENDLESS:
        return None
    return Interval(float(mean - high * error), float(mean - low * error))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979): adjusted p values, in the order given.

    Comparisons without a p value were made all the same: they count among the comparisons.
    """
    result: list[float | None] = [None] * len(p_values)
    largest, left = 0.0, len(p_values)
    known = [(value, index) for index, value in enumerate(p_values) if value is not None]
    for value, index in sorted(known):
        largest = max(largest, min(1.0, left * value))
        result[index] = largest
        left -= 1
    return result


def improvement(first: ArrayLike, second: ArrayLike) -> float | None:
    """The probability that a value of the first is above one of the second; ties count half.

    Over all pairs, as in rliable: Mann and Whitney's U over their number. None without values.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if not len(one) or not len(other):
        return None
    statistic = scipy.stats.mannwhitneyu(one, other, method="asymptotic").statistic
    return float(statistic) / (len(one) * len(other))


def interquartile_mean(samples: Sequence[ArrayLike]) -> float:
    """The mean of the middle half of all values (Agarwal et al. 2021), as in rliable.

    Args:
      samples: of each data set its values, one a seed.
    """
    return float(scipy.stats.trim_mean(np.concatenate([np.ravel(one) for one in samples]), 0.25))


def interquartile_interval(samples: Sequence[ArrayLike], level: float = LEVEL) -> Interval | None:
    """The percentile interval of `interquartile_mean`, seeds resampled within each data set.

    Args:
      samples: of each data set its values, one a seed.
      level: of confidence.

    Returns:
      None where a data set has one value only, or no data set has two that differ.
    """
    arrays = [np.asarray(one, float) for one in samples]
    if min(map(len, arrays)) < 2 or all(map(are_same, arrays)):
        return None
    drawn = _resampled(
        arrays,
        lambda *parts, axis: scipy.stats.trim_mean(np.concatenate(parts, axis), 0.25, axis=axis),
    )
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _resampled(samples: Sequence[np.ndarray], statistic: object) -> np.ndarray:
    """A statistic of resamples, each of the samples drawn from by itself."""
    return scipy.stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=_RESAMPLES,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).bootstrap_distribution


def mean_ranks(values: ArrayLike) -> np.ndarray:
    """Ranks of methods on each data set, 1 for the highest value; equal ones share the mean rank.

    Args:
      values: `[N, k]`, of each data set the values of its methods.

    Returns:
      `[N, k]` float64.
    """
    return scipy.stats.rankdata(-np.asarray(values, float), axis=1)


def differ(values: ArrayLike, level: float = LEVEL) -> bool:
    """Whether Friedman's test rejects that all methods are alike.

    Args:
      values: `[N, k]`, of each data set the values of its k >= 3 methods.
      level: of confidence.
    """
    array = np.asarray(values, float)
    if (array == array[:, :1]).all():
        return False
    return bool(scipy.stats.friedmanchisquare(*array.T).pvalue < 1 - level)


def critical_difference(num_methods: int, num_sets: int, level: float = LEVEL) -> float:
    """Nemenyi's: mean ranks that are further apart differ (Demšar 2006).

    Args:
      num_methods: k >= 2.
      num_sets: N.
      level: of confidence.
    """
    quantile = scipy.stats.studentized_range.ppf(level, num_methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(num_methods * (num_methods + 1) / (6 * num_sets)))


def alike(mean_rank: Sequence[float], difference: float) -> list[list[int]]:
    """The largest groups of methods whose mean ranks are within a critical difference.

    Args:
      mean_rank: of each method.
      difference: critical.

    Returns:
      Of each group of two or more the indices, best first; none of them within another.
    """
    order = sorted(range(len(mean_rank)), key=lambda index: mean_rank[index])
    groups: list[list[int]] = []
    last = 0
    for start in range(len(order)):
        end = start
        while end < len(order) and mean_rank[order[end]] - mean_rank[order[start]] <= difference:
            end += 1
        if end - start > 1 and end > last:
            groups.append(order[start:end])
            last = end
    return groups
