"""Intervals, corrections and ranks against published numbers, other libraries, and by hand."""

import numpy as np
import pytest
from scipy import stats

from protonorm_jax.statistics import intervals

SKEWED = [0.012, 0.034, -0.005, 0.021, 0.040, 0.003, 0.018, 0.027, -0.011, 0.055, 0.009, 0.030]
# Five seeds on three data sets.
SCORES = np.array(
    [
        *([0.61, 0.42, 0.90], [0.58, 0.47, 0.88], [0.66, 0.40, 0.93], [0.63, 0.44, 0.91]),
        [0.57, 0.52, 0.89],
    ]
)


def test_t_interval_is_that_of_the_table():
    """1, 2, ..., 5: mean 3, standard error sqrt(0.5), and 2.776 for four degrees of freedom."""
    low, high = intervals.t_interval([1, 2, 3, 4, 5])
    assert (low, high) == pytest.approx((3 - 2.776445 * 0.5**0.5, 3 + 2.776445 * 0.5**0.5))
    narrow = intervals.t_interval([1, 2, 3, 4, 5], level=0.5)
    assert narrow.low == pytest.approx(3 - 0.740697 * 0.5**0.5)
    assert intervals.t_test([1, 2, 3, 4, 5]) == pytest.approx(0.0132356, rel=1e-5)
    assert intervals.deviation([1, 2, 3, 4, 5]) == pytest.approx(2.5**0.5)


@pytest.mark.parametrize(
    "values", [[0.3], [0.0, 0.0, 0.0], [0.1] * 12, [0.7 - 0.6, 0.8 - 0.7, 0.9 - 0.8]]
)
def test_of_one_value_or_of_equal_ones_there_is_no_interval(values):
    assert intervals.t_interval(values) is None
    assert intervals.t_test(values) is None
    assert intervals.bootstrap_t(values) is None
    assert intervals.interquartile_interval([values, values]) is None


def test_bootstrap_t_agrees_with_another_library():
    """The ends are those of arch 7.2.0 (`method="studentized"`), 100,000 resamples, two seeds."""
    low, high = intervals.bootstrap_t(SKEWED)
    assert low == pytest.approx((0.00747238 + 0.00737534) / 2, abs=2e-4)
    assert high == pytest.approx((0.03196434 + 0.03209974) / 2, abs=3e-4)
    assert intervals.bootstrap_t(SKEWED) == (low, high), "the same again"
    student = intervals.t_interval(SKEWED)
    assert (low, high) != pytest.approx(student, abs=1e-4)


def test_bootstrap_t_needs_ten_values_that_differ_enough():
    assert intervals.bootstrap_t(SKEWED[:9]) is None
    assert intervals.bootstrap_t(SKEWED[:10]) is not None
    # More than one in forty resamples has the odd value not at all, and no spread.
    assert intervals.bootstrap_t([0.5] * 11 + [0.6]) is None


def test_bootstrap_t_is_turned_over():
    """Mirrored values have the mirrored interval: the ends are not mixed up."""
    high, low = intervals.bootstrap_t(-np.array(SKEWED))
    assert (-low, -high) == pytest.approx(intervals.bootstrap_t(SKEWED), abs=6e-4)
    skewed = np.array([1.0] * 3 + [2.0] * 3 + [3, 4, 6, 9, 14, 30.0])
    low, high = intervals.bootstrap_t(skewed)
    assert high - skewed.mean() > 1.5 * (skewed.mean() - low), "long where the values are"


def test_bootstrap_t_covers_the_mean_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(intervals, "_RESAMPLES", 499)
    generator = np.random.default_rng(3)
    found = [intervals.bootstrap_t(generator.exponential(size=15)) for _ in range(300)]
    covered = np.mean([low <= 1.0 <= high for low, high in found])
    # Student's interval of such values covers 0.90 of the time.
    assert 0.92 <= covered <= 0.975


def test_holm_is_that_of_statsmodels_and_of_multipletesting():
    """By statsmodels 0.15.0, and the example of MultipleTesting.jl's documentation."""
    found = intervals.holm([0.01, 0.04, 0.03, 0.005, 0.2, 0.04])
    assert found == pytest.approx([0.05, 0.12, 0.12, 0.03, 0.2, 0.12])
    assert intervals.holm([0.001, 0.01, 0.03, 0.5]) == pytest.approx([0.004, 0.03, 0.06, 0.5])
    assert intervals.holm([0.6, 0.7]) == [1.0, 1.0]
    assert intervals.holm([]) == []


def test_a_comparison_without_a_p_value_counts_among_the_comparisons():
    found = intervals.holm([None, 0.01, 0.03, None])
    assert found[0] is None and found[3] is None
    assert found[1:3] == pytest.approx([0.04, 0.09])


def test_improvement_is_that_of_rliable():
    """The first are the numbers of rliable's own tests, the mean over two tasks being 1/3."""
    one, other = np.array([[1, 2], [2, 2], [1, 1], [2, 1]]), np.array([[1, 1], [2, 2], [3, 3]])
    found = [intervals.improvement(one[:, task], other[:, task]) for task in range(2)]
    assert np.mean(found) == pytest.approx(1 / 3)
    assert intervals.improvement([2.0, 3.0], [1.0]) == 1.0
    assert intervals.improvement([0.5, 0.5], [0.5, 0.5]) == 0.5
    assert intervals.improvement([0.1], [0.5, 0.6]) == 0.0
    assert intervals.improvement([], [0.5]) is None


def test_interquartile_mean_is_that_of_rliable():
    """The first two are the numbers of rliable's own tests, the others what rliable 1.2.0 makes of
    `SCORES` with 50,000 resamples."""
    assert intervals.interquartile_mean(np.array([[1, 2, 1, 2], [2, 2, 1, 1]])) == 1.5
    assert intervals.interquartile_mean(np.array([[1, 2, 3], [1, 2, 3]])) == 2
    assert intervals.interquartile_mean(SCORES.T) == pytest.approx(0.64555556)
    low, high = intervals.interquartile_interval(SCORES.T)
    assert (low, high) == pytest.approx((0.62444444, 0.66444444), abs=2e-3)


def test_resampling_stays_within_a_data_set():
    """With one data set far above the other, each half of the values is always there."""
    low, high = intervals.interquartile_interval([[0.0, 0.1, 0.2], [10.0, 10.1, 10.2, 10.3]])
    assert 3 < low < high < 8
    assert intervals.interquartile_interval([[0.0, 1.0], [0.5]]) is None


def test_ranks_give_the_best_one_and_share_ties():
    found = intervals.mean_ranks([[0.3, 0.9, 0.5], [0.7, 0.7, 0.1]])
    assert found.tolist() == [[3, 1, 2], [1.5, 1.5, 3]]


@pytest.mark.parametrize(
    ("methods", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)]
)
def test_critical_difference_has_the_quantiles_of_demsar(methods, quantile):
    """Table 5 of Demšar (2006), at 0.05."""
    found = intervals.critical_difference(methods, 14)
    assert found == pytest.approx(quantile * (methods * (methods + 1) / (6 * 14)) ** 0.5, abs=1e-3)


def test_groups_within_the_critical_difference_are_the_largest():
    ranks = [3.0, 1.0, 2.1, 2.9, 5.0]
    assert intervals.alike(ranks, 1.2) == [[1, 2], [2, 3, 0]]
    assert intervals.alike(ranks, 0.05) == []
    assert intervals.alike(ranks, 9.0) == [[1, 2, 3, 0, 4]]


def test_friedman_sees_what_is_always_in_the_same_order():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(12, 3))
    assert not intervals.differ(noise)
    assert intervals.differ(noise / 10 + [0.0, 1.0, 2.0])
    assert not intervals.differ(np.ones((12, 3)))
    assert stats.friedmanchisquare(*noise.T).pvalue > 0.05
