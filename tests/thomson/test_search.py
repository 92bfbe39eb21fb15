"""The global search, against arrangements that are known to be the best."""

import jax
import numpy as np
import pytest

from protonorm_jax import thomson
from protonorm_jax.errors import UsageError


@pytest.mark.parametrize("num_points", [2, 4, 5, 6, 12, 13, 16])
def test_search_finds_the_best_known_energy(num_points):
    result = thomson.minimize(jax.random.key(num_points), num_points=num_points, restarts=32)
    best = thomson.best_known(num_points)
    np.testing.assert_allclose(result.energy, best, rtol=1e-9)
    assert result.converged
    assert result.points.shape == (num_points, 3)
    assert result.points.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(result.points, axis=1), 1, atol=1e-14)
    one, other = np.triu_indices(num_points, 1)
    distances = np.linalg.norm(result.points[one] - result.points[other], axis=1)
    np.testing.assert_allclose(result.energy, np.sum(1 / distances), rtol=1e-14)
    assert (np.diff(result.energies) >= 0).all()
    assert result.energies[0] == result.energy


def test_recombination_reaches_a_narrow_optimum():
    # One random start in five ends at the best known arrangement of 60 points.
    result = thomson.minimize(jax.random.key(0), num_points=60, restarts=32)
    np.testing.assert_allclose(result.energy, thomson.best_known(60), rtol=1e-9)


def test_the_same_key_gives_the_same_points_and_float32_stays_the_default():
    first, second = (
        thomson.minimize(jax.random.key(3), num_points=7, restarts=32) for _ in range(2)
    )
    np.testing.assert_array_equal(first.points, second.points)
    assert jax.numpy.ones(2).dtype == np.float32


def test_other_dimensions_and_exponents():
    result = thomson.minimize(jax.random.key(0), num_points=8, dim=4, exponent=0, restarts=32)
    # The cross-polytope attains the lower bound.
    np.testing.assert_allclose(result.energy, thomson.lower_bound(8, 4, exponent=0), rtol=1e-6)


def test_best_known_energies():
    assert thomson.best_known(2) == 0.5
    assert thomson.best_known(12) == 49.165253058
    assert thomson.best_known(10**6) is None
    bounds = [(n, thomson.best_known(n), thomson.lower_bound(n, 3)) for n in range(2, 110, 9)]
    assert all(bound <= best * (1 + 1e-6) for _, best, bound in bounds if best is not None)


def test_wrong_settings_are_named():
    key = jax.random.key(0)
    with pytest.raises(UsageError, match=r"minimize.num_points must be >= 2, got 1"):
        thomson.minimize(key, num_points=1)
    with pytest.raises(UsageError, match=r"minimize.dim must be >= 2, got 1"):
        thomson.minimize(key, num_points=3, dim=1)
    with pytest.raises(UsageError, match=r"minimize.restarts must be >= 1, got 0"):
        thomson.minimize(key, num_points=3, restarts=0)
    with pytest.raises(UsageError, match=r"align.exponent must be a finite number"):
        thomson.minimize(key, num_points=3, exponent=float("nan"))
