"""The global search, against arrangements that are known to be the best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import thomson
from protonorm_jax.errors import UsageError
from protonorm_jax.thomson import search

SIZES = search._SIZES


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


def test_children_are_a_cap_of_one_parent_and_the_mirrored_rest_of_the_other():
    """On the circle a cap is an arc; the rows of padding, which are long here, stay out."""
    num_points, known = 12, np.arange(16) < 12
    order, generator = np.arange(num_points), np.random.default_rng(0)

    def parent(offset):
        turns = (order + offset * np.sin(order)) * 2 * np.pi / num_points
        points = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        shuffled = generator.permutation(num_points)
        rows = np.concatenate([points[shuffled], np.full((4, 2), 9.0)])
        return rows.astype(np.float32), np.argsort(shuffled)

    (one, places), (other, _) = parent(0.0), parent(0.3)
    taken_counts = set()
    for seed in range(8):
        child = np.asarray(search._recombine(jax.random.key(seed), one, other, known))[:num_points]
        np.testing.assert_allclose(np.linalg.norm(child, axis=1), 1, rtol=1e-5)
        from_one = np.array([np.isclose(row, one).all(axis=1).any() for row in child])
        taken_counts.add(int(from_one.sum()))
        assert np.all(np.diff(from_one.astype(int)) <= 0), "The cap comes first."
        in_cap = np.array([np.isclose(row, child).all(axis=1).any() for row in one])[places]
        assert np.sum(in_cap != np.roll(in_cap, 1)) == 2, "The cap must be one arc."
        rest = child[~from_one]
        inner = np.sort((rest @ rest.T).ravel())
        # As many neighbours of the other parent have these inner products, mirrored or not.
        around = other[np.argsort(np.arctan2(*other[:num_points].T))]
        arcs = [np.roll(around, start, axis=0)[: len(rest)] for start in range(num_points)]
        assert any(np.allclose(np.sort((a @ a.T).ravel()), inner, atol=1e-5) for a in arcs)
    assert min(taken_counts) < max(taken_counts)


def test_in_how_many_calls_a_descent_is_made_changes_no_bit(monkeypatch):
    one = thomson.minimize(jax.random.key(1), num_points=5, restarts=17)
    monkeypatch.setattr(search, "_SLICE", 16 * 64**2 * 7)
    told = []
    several = thomson.minimize(
        jax.random.key(1), num_points=5, restarts=17, tell=lambda *what: told.append(what)
    )
    np.testing.assert_array_equal(several.points, one.points)
    np.testing.assert_array_equal(several.energies, one.energies)
    descents = [what for what in told if what[0] == "descents"]
    assert {what[1:3] for what in descents} == {(0, 32), (16, 32)}
    assert {0, 7, 14} <= {what[3] for what in descents}
    assert {what[1:3] for what in told if what[0] == "polish"} == {(k, 8) for k in range(8)}


def test_sizes_are_padded_to_few_programs(monkeypatch):
    monkeypatch.setattr(search, "_SIZES", SIZES)
    counts = (2, 16, 17, 64, 65, 100, 101, 128, 129, 160, 161, 200, 201, 256, 257)
    padded = (16, 16, 32, 64, 100, 100, 128, 128, 160, 160, 200, 200, 256, 256, 320)
    assert tuple(map(search._padded_size, counts)) == padded


@pytest.mark.parametrize(
    ("restarts", "starts", "generations"),
    [(1, 1, 0), (16, 1, 0), (17, 1, 1), (64, 1, 3), (65, 2, 3), (100, 2, 5), (128, 2, 6)],
)
def test_a_quarter_of_the_descents_start_at_random(restarts, starts, generations, monkeypatch):
    """In chunks of 16, of which there are enough for all restarts."""
    asked = {}

    def found(*_, **settings):
        asked.update(settings)
        return np.zeros((8, 64, 3))

    monkeypatch.setattr(search, "_search", found)
    monkeypatch.setattr(search, "_polish", lambda points, *_, **__: (points, *np.ones((2, 8))))
    thomson.minimize(jax.random.key(0), num_points=9, restarts=restarts, exponent=2)
    wanted = {"size": 64, "dim": 3, "exponent": 2, "starts": starts, "generations": generations}
    assert {name: asked[name] for name in wanted} == wanted


def test_the_best_of_the_polished_arrangements_is_returned(monkeypatch):
    """Wherever among them it is."""
    points = np.arange(8.0)[:, None, None] * np.ones((8, 64, 3))
    energies = np.array([5.0, 3.0, 8.0, 1.0, 2.0, 9.0, 7.0, 4.0])

    def polished(candidates, *_, **__):
        assert candidates.dtype == jnp.ones(1).dtype == np.float64
        return points, energies, 1e-9 * energies**9

    def found(*_, **__):
        assert jnp.ones(1).dtype == np.float32
        return points.astype(np.float32)

    monkeypatch.setattr(search, "_search", found)
    monkeypatch.setattr(search, "_polish", polished)
    result = thomson.minimize(jax.random.key(0), num_points=5)
    np.testing.assert_array_equal(result.points, np.full((5, 3), 3.0))
    assert (result.energy, result.residual, result.converged) == (1.0, 1e-9, True)
    assert thomson.minimize(jax.random.key(0), num_points=5, tolerance=1e-9).converged
    assert not thomson.minimize(jax.random.key(0), num_points=5, tolerance=9e-10).converged
    assert result.energies.tolist() == sorted(energies)
