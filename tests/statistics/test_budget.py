"""The curve over tuning budgets against all subsets, counted one by one."""

import itertools

import numpy as np
import pytest

from protonorm_jax.statistics import tuning


def by_counting(validation, test, diverged, size):
    """The mean test accuracy of the choice, over all subsets."""

    def rank(number):
        accuracy = validation[number]
        return diverged[number], 2.0 if accuracy is None else -accuracy, number

    subsets = itertools.combinations(range(len(test)), size)
    return np.mean([test[min(subset, key=rank)] for subset in subsets])


@pytest.mark.parametrize("number", range(5))
def test_the_curve_is_the_mean_over_all_subsets(number):
    """With equal accuracies, some that are not known, and some settings that diverge."""
    generator = np.random.default_rng(number)
    validation = list(generator.integers(0, 5, 7) / 5)
    validation[number % 7] = None
    test = list(generator.random(7))
    diverged = list(generator.integers(0, 2, 7))
    wanted = [by_counting(validation, test, diverged, size) for size in range(1, 8)]
    np.testing.assert_allclose(tuning.budget_curve(validation, test, diverged), wanted)


def test_by_hand():
    """Of two the better by validation is worse by test; one alone is either."""
    np.testing.assert_allclose(tuning.budget_curve([0.5, 0.6], [0.9, 0.7]), [0.8, 0.7])
    np.testing.assert_allclose(tuning.budget_curve([0.5], [0.9]), [0.9])
    # The first of equals; and what has diverged is chosen if there is nothing else.
    np.testing.assert_allclose(tuning.budget_curve([0.5, 0.5], [0.9, 0.7]), [0.8, 0.9])
    np.testing.assert_allclose(tuning.budget_curve([0.9, 0.5], [0.1, 0.7], [1, 0]), [0.4, 0.7])


def test_what_is_not_known_is_not_guessed():
    curve = tuning.budget_curve([0.9, 0.5, None], [0.8, 0.7, None])
    assert np.isnan(curve[0])
    np.testing.assert_allclose(curve[1:], [(2 * 0.8 + 0.7) / 3, 0.8])
    with pytest.raises(ValueError, match="lengths must be equal, got 1, 2 and 1"):
        tuning.budget_curve([0.5], [0.5, 0.5])
