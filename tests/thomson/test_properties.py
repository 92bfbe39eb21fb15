"""What holds for prototype alignment whatever the prototypes are."""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protonorm_jax import thomson

ROWS, DIM = 6, 10
few_examples = settings(max_examples=15, deadline=None, derandomize=True, database=None)
align = jax.jit(
    thomson.align,
    static_argnames="method",
    compiler_options={"xla_backend_optimization_level": 0},
)
spreads = st.sampled_from([None, 0.3, 0.01])
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def vectors_of(seed, spread):
    """Vectors in all directions, or huddled around a common one."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((ROWS, DIM))
    if spread is not None:
        vectors = rng.standard_normal(DIM) + spread * vectors
    return vectors.astype(np.float32)


def rotation_of(seed):
    matrix = np.random.default_rng(seed).standard_normal((DIM, DIM))
    return np.linalg.qr(matrix)[0].astype(np.float32)


finite_or_not = arrays.arrays(
    np.float32,
    (ROWS, DIM),
    elements=st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-20, 1e20, np.nan, np.inf]),
)


@few_examples
@given(vectors=finite_or_not, known=arrays.arrays(bool, ROWS))
def test_any_input_gives_unit_vectors(vectors, known):
    for method in ("simplex", "thomson", "reference", "none"):
        result = align(vectors, known, method=method)
        assert np.isfinite(result.points).all()
        np.testing.assert_allclose(np.linalg.norm(result.points, axis=1), known, atol=1e-5)
        assert not (result.valid & ~known).any()
        if method == "simplex":
            inner = np.asarray(result.points @ result.points.T)[known][:, known]
            expected = np.where(np.eye(len(inner)), 1, -1 / max(len(inner) - 1, 1))
            np.testing.assert_allclose(inner, expected, atol=5e-6)


@few_examples
@given(seed=seeds, spread=spreads, rotation=seeds)
def test_rotated_input_gives_rotated_points(seed, spread, rotation):
    vectors, rotation = vectors_of(seed, spread), rotation_of(rotation)
    for method, tolerance in (("simplex", 2e-3), ("none", 1e-5)):
        points = align(vectors, method=method).points
        rotated = align(vectors @ rotation, method=method).points
        np.testing.assert_allclose(rotated, points @ rotation, atol=tolerance)
    result, rotated = (align(v, method="thomson") for v in (vectors, vectors @ rotation))
    np.testing.assert_allclose(rotated.energy, result.energy, rtol=1e-5)


@few_examples
@given(seed=seeds, spread=spreads, order=st.permutations(range(ROWS)))
def test_the_order_of_the_rows_does_not_matter(seed, spread, order):
    vectors, order = vectors_of(seed, spread), np.asarray(order)
    for method, tolerance in (("simplex", 2e-3), ("none", 1e-6)):
        points = align(vectors, method=method).points
        permuted = align(vectors[order], method=method).points
        np.testing.assert_allclose(permuted, points[order], atol=tolerance)
    result, permuted = (align(v, method="thomson") for v in (vectors, vectors[order]))
    np.testing.assert_allclose(permuted.energy, result.energy, rtol=1e-5)


@few_examples
@given(seed=seeds, length=st.floats(1e-3, 1e3))
def test_a_simplex_stays_where_it_is(seed, length):
    corners = np.asarray(thomson.simplex(ROWS, DIM)) @ rotation_of(seed)
    for method in ("simplex", "thomson", "none"):
        result = align(corners * np.float32(length), method=method)
        np.testing.assert_allclose(result.points, corners, atol=1e-5)
        assert result.iterations <= 1
    np.testing.assert_allclose(align(corners, method="reference").points, corners, atol=1e-5)


@few_examples
@given(seed=seeds, spread=spreads)
def test_never_worse_than_the_reference(seed, spread):
    vectors = vectors_of(seed, spread)
    reference = align(vectors, method="reference")
    for method in ("simplex", "thomson"):
        result = align(vectors, method=method)
        assert result.energy <= reference.energy + 1e-5 * abs(reference.energy)
    # Six points in space have one local optimum, the octahedron.
    reference, result = (align(vectors[:, :3], method=m) for m in ("reference", "auto"))
    assert result.energy <= reference.energy + 1e-5 * abs(reference.energy)
