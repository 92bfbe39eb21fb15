"""Energies, bounds, the nearest simplex and prototype alignment."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import thomson
from protonorm_jax.errors import UsageError
from protonorm_jax.thomson.energies import unit_rows

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "alignment_reference.npz"
QUICKLY = {"xla_backend_optimization_level": 0}
"""How to compile what runs only a few times."""
STATIC = ("method", "exponent", "max_iterations", "num_iterations", "early_stop")
align = jax.jit(thomson.align, static_argnames=STATIC, compiler_options=QUICKLY)
reference_align = jax.jit(
    thomson.reference_align, static_argnames=STATIC[3:], compiler_options=QUICKLY
)
min_angle, mean_angle = jax.jit(thomson.min_angle), jax.jit(thomson.mean_angle)
METHODS = ("thomson", "simplex", "reference", "none")


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unit(points):
    points = np.asarray(points, np.float64)
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def distances(points):
    """Distances of all pairs, in float64 from the differences."""
    points = np.asarray(points, np.float64)
    one, other = np.triu_indices(len(points), 1)
    return np.linalg.norm(points[one] - points[other], axis=1)


def exact_energy(points, exponent):
    d = distances(points)
    return np.sum(d**-exponent) if exponent else -np.sum(np.log(d))


def simplex_energy(count):
    return -count * (count - 1) / 4 * np.log(2 * count / (count - 1))


@pytest.mark.parametrize("dim", [3, 20])
def test_energy_sums_over_known_pairs_and_forces_are_its_negative_gradient(dim):
    points = unit(normal(0, 9, dim)).astype(np.float32)
    known = np.arange(9) != 4
    exponents = (0, 1, 2, 0.5)
    difference = np.asarray(points[:, None] - points[None], np.float64)
    apart = np.sqrt((difference**2).sum(-1)) + np.eye(9)
    exists = known[:, None] & known & ~np.eye(9, dtype=bool)

    @jax.jit
    def report(points):
        return [
            (thomson.energy(points, known, exponent=s), thomson.forces(points, known, exponent=s))
            for s in exponents
        ]

    for exponent, (energy, force) in zip(exponents, report(points), strict=True):
        np.testing.assert_allclose(energy, exact_energy(points[known], exponent), rtol=1e-5)
        strength = np.where(exists, (exponent or 1) * apart ** -(exponent + 2), 0)
        expected = (strength[..., None] * difference).sum(1)
        np.testing.assert_allclose(force, expected, atol=2e-5 * np.abs(expected).max())
        assert not force[4].any()
    assert thomson.riesz_energy(points[:5]) == thomson.energy(points[:5], exponent=1)


@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5])
def test_forces_keep_their_digits_when_points_huddle(spread):
    rng = np.random.default_rng(2)
    points = unit(rng.standard_normal(64) + spread * rng.standard_normal((30, 64)))
    points = points.astype(np.float32).astype(np.float64)
    difference = points[:, None] - points[None]
    squared = (difference**2).sum(-1) + np.eye(30)
    expected = (difference / squared[..., None]).sum(1)
    force = thomson.forces(points.astype(np.float32), exponent=0)
    np.testing.assert_allclose(force, expected, atol=1e-6 * np.abs(expected).max())


def test_points_that_coincide_do_not_repel():
    points = unit(normal(3, 5, 12)).astype(np.float32)
    points[1] = points[0]
    force = thomson.forces(points, exponent=1)
    assert np.isfinite(force).all()
    np.testing.assert_allclose(force[0], force[1], atol=1e-5)


def test_angles():
    square = jnp.asarray([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(min_angle(square), 90, atol=1e-4)
    np.testing.assert_allclose(mean_angle(square), 120, atol=1e-3)
    opposite = jnp.asarray([True, False, True, False])
    np.testing.assert_allclose(min_angle(square, opposite), 180, atol=1e-4)
    close = jnp.asarray([[1.0, 0.0], [1.0, 1e-5]])
    np.testing.assert_allclose(min_angle(close), np.rad2deg(1e-5), rtol=1e-3)
    assert np.isnan(min_angle(square, jnp.arange(4) < 1))
    assert np.isnan(mean_angle(square, jnp.arange(4) < 1))


def test_rows_of_unit_length_keep_their_angles_and_unknown_ones_are_zero():
    rows = unit_rows(np.float32([[3, 4], [0, 0], [5, 5], [0, -2]]), np.arange(4) != 2)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [0, 0], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize("exponent", [0, 1, 3])
def test_lower_bound_is_attained_by_the_simplex_and_the_cross_polytope(exponent):
    for dim in (2, 3, 10):
        cross = np.concatenate([np.eye(dim), -np.eye(dim)])
        bound = thomson.lower_bound(2 * dim, dim, exponent=exponent)
        np.testing.assert_allclose(bound, exact_energy(cross, exponent), rtol=1e-5)
        simplex = np.asarray(thomson.simplex(dim + 1, dim), np.float64)
        bound = thomson.lower_bound(dim + 1, dim, exponent=exponent)
        np.testing.assert_allclose(bound, exact_energy(simplex, exponent), rtol=1e-5)


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_descent_above_the_simplex_finds_the_octahedron_and_comes_close_to_the_bound(exponent):
    for count, gap in ((5, 0.05), (6, 1e-6), (20, 1.0)):
        known = np.arange(20) < count
        result = align(normal(4, 20, 3), known, exponent=exponent)
        assert result.converged
        assert (-1e-6 if count == 6 else 0) <= result.gap <= gap
        if count == 6:
            np.testing.assert_allclose(min_angle(result.points, known), 90, atol=0.01)
    assert result.gap > 1e-3


def test_lower_bound_takes_a_traced_count():
    bound = jax.jit(lambda n: thomson.lower_bound(n, 5, exponent=0))
    assert bound(0) == bound(1) == 0
    for count in (2, 6):
        np.testing.assert_allclose(bound(count), simplex_energy(count), rtol=1e-6)
    for count in (7, 30):
        expected = thomson.lower_bound(count, 5, exponent=0)
        np.testing.assert_allclose(bound(count), expected, rtol=1e-6)


def test_simplex_corners():
    for count, dim in ((1, 1), (2, 1), (2, 5), (4, 3), (10, 12)):
        inner = np.asarray(thomson.simplex(count, dim) @ thomson.simplex(count, dim).T)
        expected = np.where(np.eye(count), 1, -1 / max(count - 1, 1))
        np.testing.assert_allclose(inner, expected, atol=1e-6)
    with pytest.raises(UsageError, match=r"simplex.num_points must be in \[1, dim \+ 1 = 4\]"):
        thomson.simplex(5, 3)
    assert thomson.simplex(1, 3).tolist() == [[1, 0, 0]]
    with pytest.raises(UsageError, match=r"nearest_simplex needs at most D \+ 1 = 4 rows, got 5"):
        thomson.nearest_simplex(normal(0, 5, 3))
    points = np.asarray(jax.jit(thomson.nearest_simplex)(normal(0, 4, 3)))
    np.testing.assert_allclose(points @ points.T, np.where(np.eye(4), 1, -1 / 3), atol=1e-5)


@pytest.mark.parametrize(("count", "dim"), [(100, 512), (33, 32)])
def test_nearest_simplex_is_exact_and_nearest(count, dim):
    for spread in (None, 0.05, 0.001):
        rng = np.random.default_rng(count)
        vectors = rng.standard_normal((count, dim))
        if spread is not None:
            vectors = rng.standard_normal(dim) + spread * vectors
        result = align(vectors.astype(np.float32), method="simplex")
        points = np.asarray(result.points, np.float64)
        expected = np.where(np.eye(count), 1, -1 / (count - 1))
        np.testing.assert_allclose(points @ points.T, expected, atol=2e-6)
        excess = exact_energy(points, 0) / simplex_energy(count) - 1
        assert abs(excess) <= 1e-7
        assert result.iterations <= 8
        assert result.converged
        assert abs(result.gap) <= 1e-6
        # The largest mean cosine of any simplex, by the orthogonal Procrustes problem.
        rows = unit(vectors)
        best = np.linalg.svd(rows - rows.mean(0), compute_uv=False).sum()
        best *= np.sqrt(count / (count - 1)) / count
        np.testing.assert_allclose((rows * points).sum(1).mean(), best, atol=2e-6)


@pytest.mark.parametrize("spread", [None, 0.05, 0.001])
def test_descent_reaches_the_simplex(spread):
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((100, 512))
    if spread is not None:
        vectors = rng.standard_normal(512) + spread * vectors
    result = align(vectors.astype(np.float32), method="thomson")
    assert result.converged
    assert abs(exact_energy(result.points, 0) / simplex_energy(100) - 1) <= 1e-6
    np.testing.assert_allclose(min_angle(result.points), np.rad2deg(np.arccos(-1 / 99)), atol=0.05)


def test_the_simplex_is_chosen_as_long_as_there_is_one():
    vectors = normal(3, 4, 3)
    automatic, simplex = (align(vectors, method=method) for method in ("auto", "simplex"))
    np.testing.assert_array_equal(automatic.points, simplex.points)
    assert align(normal(3, 5, 3)).iterations > simplex.iterations


def test_descent_of_many_points_comes_close_to_the_bound():
    result = align(normal(6, 60, 32), method="auto")
    assert result.converged
    assert 0 <= result.gap < 5e-3


def test_memory_is_quadratic_in_the_points():
    shape = jax.ShapeDtypeStruct((1000, 512), jnp.float32)
    for method in ("thomson", "reference"):
        memory = align.lower(shape, method=method).compile().memory_analysis()
        assert memory.temp_size_in_bytes <= 32 * 2**20
    shape = jax.ShapeDtypeStruct((513, 512), jnp.float32)
    memory = align.lower(shape, method="simplex").compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 16 * 2**20


@pytest.mark.parametrize(
    "case", ["10x512/normal/s0", "10x512/relu/s1", "10x64/relu/s1", "12x3/normal/s1"]
)
def test_reference_steps_agree_with_the_authors_code(case):
    """Before the points have come to rest, and where the code stops early."""
    with np.load(GOLDEN) as golden:
        wide = "x512" in case
        steps = 10 if wide else 100
        result = reference_align(golden[f"{case}/input"], num_iterations=steps, early_stop=False)
        assert result.iterations == steps
        expected = golden[f"{case}/iter{steps}"]
        np.testing.assert_allclose(result.points, expected, rtol=0, atol=1e-6 if wide else 5e-6)
        if wide:
            result = reference_align(golden[f"{case}/input"])
            np.testing.assert_allclose(result.points, golden[f"{case}/stop500"], rtol=0, atol=1e-6)
            assert result.iterations == golden[f"{case}/stop_iter"] + 1
            assert not result.converged
            assert result.gap > 1e-4


def test_the_reference_stops_after_ten_equal_forces_from_step_11_on():
    """Those of a simplex are equal from the first step; both ways of asking stop there."""
    corners = thomson.simplex(4, 5)
    known = np.ones(4, bool)
    assert reference_align(corners, known).iterations == 21
    assert align(corners, known, method="reference").iterations == 21
    assert align(corners, known, method="reference", early_stop=False).iterations == 500
    assert align(corners, known, method="reference", num_iterations=15).iterations == 15


def test_what_is_told_of_two_points_at_right_angles():
    """Energy -log sqrt(2), least -log 2; the force along the sphere is as large as the other."""
    result = align(np.float32([[2, 0, 0], [0, 3, 0], [9, 9, 9]]), np.arange(3) < 2, method="none")
    np.testing.assert_allclose(result.points, np.diag([1, 1, 0]), atol=1e-6)
    told = (result.energy, result.lower_bound, result.gap, result.residual)
    np.testing.assert_allclose(told, (-np.log(2) / 2, -np.log(2), 0.5, 1.0), rtol=1e-5)
    assert not result.converged and result.iterations == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_masked_row_is_as_good_as_removed(method):
    vectors = normal(7, 8, 16)
    known = np.asarray([1, 1, 0, 1, 0, 0, 1, 1], bool)
    vectors[2] = np.nan
    vectors[6] = 0  # Known, but without a direction.
    masked = align(vectors, known, method=method)
    removed = align(vectors[known], method=method)
    np.testing.assert_allclose(masked.points[known], removed.points, atol=2e-5)
    assert not masked.points[~known].any()
    np.testing.assert_array_equal(masked.valid, known & (np.arange(8) != 6))
    np.testing.assert_allclose(masked.energy, removed.energy, rtol=1e-5)
    np.testing.assert_allclose(masked.lower_bound, removed.lower_bound, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_a_loop(method):
    vectors = normal(8, 4, 8, 16)
    vectors[1] = vectors[1, :1] + 1e-3 * vectors[1]
    known = np.ones((4, 8), bool)
    known[2, 3:] = False
    known[3] = False
    # The early stop compares rounded numbers, which may differ between the two.
    early = {"early_stop": False} if method == "reference" else {}
    run = functools.partial(align, method=method, **early)
    several = jax.vmap(functools.partial(thomson.align, method=method, **early))
    batched = jax.jit(several, compiler_options=QUICKLY)(vectors, known)
    looped = [run(v, k) for v, k in zip(vectors, known, strict=True)]
    looped = jax.tree.map(lambda *leaves: np.stack(leaves), *looped)
    chex.assert_trees_all_equal_shapes_and_dtypes(batched, looped)
    np.testing.assert_allclose(batched.points, looped.points, atol=1e-3)
    np.testing.assert_allclose(batched.energy, looped.energy, rtol=1e-5)
    np.testing.assert_array_equal(batched.converged, looped.converged)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["one", "none", "opposite", "huge", "tiny"])
def test_few_or_extreme_rows(method, kind):
    vectors = normal(9, 8, 16)
    known = np.arange(8) < {"one": 1, "opposite": 2, "none": 0}.get(kind, 8)
    if kind == "opposite":
        vectors[1] = -vectors[0]
    vectors *= {"huge": np.float32(1e37), "tiny": np.float32(1e-37)}.get(kind, 1)
    result = align(vectors, known, method=method)
    chex.assert_tree_all_finite(result)
    np.testing.assert_allclose(np.linalg.norm(result.points, axis=1), known, atol=1e-6)
    np.testing.assert_array_equal(result.valid, known)
    if known.sum() < 2:
        assert result.energy == result.gap == result.residual == 0
        assert result.converged
    if kind == "one":
        np.testing.assert_allclose(result.points[0], unit(vectors[0]), atol=1e-6)
    if known.sum() == 2 and method in ("simplex", "thomson"):
        np.testing.assert_allclose(min_angle(result.points, known), 180, atol=0.01)


@pytest.mark.parametrize("kind", ["triple", "identical", "zero", "broken", "flat"])
def test_ties_and_rows_without_direction_are_completed(kind):
    vectors = normal(10, 8, 16)
    if kind == "triple":
        vectors[1:3] = vectors[0]
    if kind == "identical":
        vectors[:] = vectors[0]
    if kind == "zero":
        vectors[:] = 0
    if kind == "broken":
        vectors[0], vectors[1, 2], vectors[3, 4], vectors[5, 5] = 0, np.nan, np.inf, -np.inf
    if kind == "flat":
        vectors[:, 3:] = 0
    for method in ("simplex", "thomson"):
        result = align(vectors, method=method)
        chex.assert_tree_all_finite(result)
        if kind == "flat" and method == "thomson":
            continue  # Forces cannot leave the subspace that all points lie in.
        assert result.converged
        np.testing.assert_allclose(result.energy, simplex_energy(8), rtol=1e-6)
        again = align(vectors, method=method)
        np.testing.assert_array_equal(result.points, again.points)
    expected = {"zero": np.zeros(8, bool), "broken": ~np.isin(np.arange(8), (0, 1, 3, 5))}
    np.testing.assert_array_equal(result.valid, expected.get(kind, np.ones(8, bool)))


@pytest.mark.parametrize("spread", [0.3, 0.0])
def test_rows_that_coincide_start_a_fiftieth_of_the_spread_apart(spread):
    """In an arbitrary direction; the first of them and all others stay. Of no spread, of 1."""
    rng = np.random.default_rng(11)
    vectors = rng.standard_normal(32) + spread * rng.standard_normal((7, 32))
    vectors[4] = 3 * vectors[1]
    vectors = vectors.astype(np.float32)
    known = np.arange(7) != 5
    result = align(vectors, known, method="thomson", max_iterations=0)
    rows = unit(vectors)[known]
    lengths = np.linalg.norm(np.asarray(result.points)[known] - rows, axis=1)
    repeats = np.arange(6) == 4 if spread else np.arange(6) > 0
    np.testing.assert_allclose(lengths[~repeats], 0, atol=1e-6)
    expected = 0.02 * (np.sqrt(((rows - rows.mean(0)) ** 2).sum() / 6) if spread else 1)
    assert (0.8 * expected < lengths[repeats]).all()
    assert (lengths[repeats] <= 1.001 * expected).all()
    assert result.iterations == 0 and not result.converged


def test_ties_whose_spread_is_exactly_zero_are_completed():
    """Two equal rows are their mean, to the last bit."""
    result = align(np.float32([[1, 2, 2], [9, 9, 9], [1, 2, 2]]), np.arange(3) != 1)
    np.testing.assert_allclose(result.points[0], -result.points[2], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result.points, axis=1), [1, 0, 1], atol=1e-6)


def test_a_single_row_and_other_floats():
    result = align(jnp.asarray([[3.0, 4.0]], jnp.bfloat16))
    np.testing.assert_allclose(result.points, [[0.6, 0.8]], atol=1e-6)
    assert result.points.dtype == jnp.float32
    point = jax.jit(thomson.nearest_simplex)(jnp.asarray([[0.0, -2.0]]))
    np.testing.assert_allclose(point, [[0, -1]])
    line = align(jnp.asarray([[3.0], [1.0], [-1.0]]))
    np.testing.assert_array_equal(line.points, [[1.0], [1.0], [-1.0]])


def test_wrong_settings_are_named():
    vectors = normal(0, 4, 2)
    with pytest.raises(UsageError, match=r"align.method must be one of auto, .*, got 'thompson'"):
        thomson.align(vectors, method="thompson")
    with pytest.raises(UsageError, match=r"align.exponent must be a finite number >= 0, got -1"):
        thomson.align(vectors, exponent=-1)
    with pytest.raises(UsageError, match=r"align.max_iterations must be >= 0, got -5"):
        thomson.align(vectors, max_iterations=-5)
    with pytest.raises(UsageError, match="'simplex' needs at most D"):
        thomson.align(vectors, method="simplex")
    with pytest.raises(UsageError, match=r"lower_bound.dim must be >= 1"):
        thomson.lower_bound(3, 0)
    with pytest.raises(AssertionError):
        thomson.align(vectors, np.ones(3, bool))
