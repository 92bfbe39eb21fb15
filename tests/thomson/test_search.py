"""The global search, against arrangements that are known to be the best."""

import jax
import numpy as np
import pytest

from protonorm_jax import thomson
from protonorm_jax.errors import UsageError
from protonorm_jax.thomson import search


@pytest.fixture(autouse=True)
def one_program(monkeypatch):
    """All sizes are padded to one, so that one program serves all tests."""
    monkeypatch.setattr(search, "_SIZES", (64,))


@pytest.mark.parametrize("num_points", [2, 4, 5, 12, 13, 16])
def test_search_finds_the_best_known_energy(num_points):
    """And finds it again with the same key."""
    result, again = (
        thomson.minimize(jax.random.key(num_points), num_points=num_points, restarts=32)
        for _ in range(2)
    )
    np.testing.assert_allclose(result.energy, thomson.best_known(num_points), rtol=1e-9)
    assert result.converged and result.residual <= 1e-8
    assert result.points.shape == (num_points, 3)
    assert result.points.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(result.points, axis=1), 1, atol=1e-14)
    one, other = np.triu_indices(num_points, 1)
    distances = np.linalg.norm(result.points[one] - result.points[other], axis=1)
    np.testing.assert_allclose(result.energy, np.sum(1 / distances), rtol=1e-14)
    assert (np.diff(result.energies) >= 0).all() and len(result.energies) == 8
    assert result.energies[0] == result.energy
    np.testing.assert_array_equal(result.points, again.points)
    assert jax.numpy.ones(2).dtype == np.float32, "Float32 must stay the default."


def test_recombination_reaches_a_narrow_optimum():
    # One random start in five ends at the best known arrangement of 60 points.
    result = thomson.minimize(jax.random.key(0), num_points=60, restarts=32)
    np.testing.assert_allclose(result.energy, thomson.best_known(60), rtol=1e-9)


def test_best_known_energies():
    assert thomson.best_known(2) == 0.5
    assert thomson.best_known(12) == 49.165253058
    assert thomson.best_known(10**6) is None
    bounds = [(n, thomson.best_known(n), thomson.lower_bound(n, 3)) for n in range(2, 110, 9)]
    assert all(bound <= best * (1 + 1e-6) for _, best, bound in bounds if best is not None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_points": 1}, "minimize.num_points must be >= 2, got 1"),
        ({"num_points": 3, "dim": 1}, "minimize.dim must be >= 2, got 1"),
        ({"num_points": 3, "restarts": 0}, "minimize.restarts must be >= 1, got 0"),
        ({"num_points": 3, "exponent": float("nan")}, "align.exponent must be a finite number"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        thomson.minimize(jax.random.key(0), **settings)
