"""The regular simplex, and the one nearest to given points.

`C <= D + 1` points have the least energy, for every exponent, at the corners of a regular
simplex. No iteration on forces is then needed: among all simplices, the nearest to the points is
a polar factor, which takes matrix products only.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from protonorm_jax.errors import UsageError
from protonorm_jax.thomson.energies import centre, gram, known_rows, unit_rows

_TIE_BREAK = 1e-6  # Of the spread of the points.
_STEPS_PER_ITERATION = 3
_MAX_ITERATIONS = 40
_LARGEST_SCALE = 1.69770248526  # Above, rounding would mix large singular values into small ones.
_SMALLEST_SINGULAR_VALUE = 1e-5  # Assumed; smaller ones cost more iterations.


def simplex(num_points: int, dim: int) -> jax.Array:
    """A regular simplex on the unit sphere: all inner products are `-1 / (num_points - 1)`.

    Args:
      num_points: static, from 1 to `dim + 1`.
      dim: static, dimension of the space.

    Returns:
      `[num_points, dim]` unit vectors that sum to zero (one point: the first axis).

    Raises:
      UsageError: if that many points do not fit.
    """
    if not 1 <= num_points <= dim + 1:
        raise UsageError(
            f"simplex.num_points must be in [1, dim + 1 = {dim + 1}], got {num_points}"
        )
    if num_points == 1:
        return jnp.asarray(np.eye(1, dim))
    column = np.arange(1, num_points)
    row = np.arange(num_points)[:, None]
    contrasts = np.where(row < column, 1.0, np.where(row == column, -column, 0.0))
    corners = contrasts / np.sqrt(column * (column + 1)) * np.sqrt(num_points / (num_points - 1))
    return jnp.asarray(np.pad(corners, ((0, 0), (0, dim - num_points + 1))))


def arbitrary_directions(known: jax.Array, dim: int) -> jax.Array:
    """`[C, dim]` unit vectors, fixed for ever, in all directions.

    They depend on the place of a row among the known rows alone, so that leaving unknown rows
    out changes nothing.
    """
    place = (jnp.cumsum(known) - 1).astype(jnp.uint32)[:, None]
    bits = place * np.uint32(0x9E3779B1) + jnp.arange(1, dim + 1, dtype=jnp.uint32)[None, :]
    for multiplier in (0x85EBCA6B, 0xC2B2AE35):  # The finaliser of MurmurHash3.
        bits = (bits ^ (bits >> 15)) * np.uint32(multiplier)
    bits = (bits ^ (bits >> 16)) | np.uint32(1)
    vectors = bits.astype(jnp.float32) * 2.0**-31 - 1
    return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)


def directions(vectors: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales the known rows of `vectors` (`[C, D]`) to unit length.

    Known rows without a direction (zero, or not finite) get an arbitrary fixed one.

    Returns:
      `[C, D]` rows, zero where not known, and `[C]` bool, known rows that had a direction.
    """
    largest = jnp.abs(vectors).max(axis=1, initial=0)
    valid = known & jnp.isfinite(largest) & (largest > 0)
    # An exact scaling first, so that the squares of large and small rows stay in range.
    _, exponents = jnp.frexp(jnp.where(valid, largest, 1))
    rows = jnp.ldexp(jnp.where(valid[:, None], vectors, 1), -exponents[:, None])
    rows = rows * lax.rsqrt(jnp.sum(rows**2, axis=1, keepdims=True))
    others = arbitrary_directions(known, vectors.shape[1]).astype(rows.dtype)
    rows = jnp.where(valid[:, None], rows, others)
    return jnp.where(known[:, None], rows, 0), valid


def centred_polar_factor(
    matrix: jax.Array, known: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Replaces the singular values of a centred matrix by ones.

    Each iteration applies three cubic Newton-Schulz steps to the singular values, composed on
    the small Gram matrix. The steps are scaled to be the best for singular values in `[low, 1]`;
    `low` grows from step to step.

    Args:
      matrix: `[C, D]`; the known rows sum to zero and have full rank but for that; the unknown
        ones are zero.
      known: `[C]` bool.

    Returns:
      the factor `[C, D]`, the number of iterations, and whether they were enough.

    Source: N. Higham, "Functions of Matrices", chapter 8; scaling by J. Chen and E. Chow,
    "A stable scaling of Newton-Schulz for improving the sign function computation of a
    Hermitian matrix" (2014).
    """
    multiply = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    dtype = matrix.dtype
    rank = jnp.maximum(known.sum() - 1, 1).astype(dtype)
    inner = gram(matrix)
    trace, square = jnp.trace(inner), jnp.sum(inner**2)
    # Where the singular values are almost equal, their mean is a better scale than the bound.
    spread = jnp.sqrt(jnp.maximum(rank - trace**2 / square, 0))
    bound = jnp.sqrt(jnp.sqrt(jnp.sum(gram(inner * lax.rsqrt(square)) ** 2)) * square)
    scale = jnp.where(spread < 0.5, trace / (square * (1 + spread)), 1 / bound)
    matrix = matrix * jnp.sqrt(scale)

    def unfinished(state):
        _, _, iteration, error = state
        return (error > 0.02) & (iteration < _MAX_ITERATIONS)

    def iterate(state):
        matrix, low, iteration, _ = state
        inner = gram(matrix)
        error = jnp.sqrt(jnp.maximum(jnp.sum(inner**2) - 2 * jnp.trace(inner) + rank, 0))
        low = jnp.maximum(low, jnp.sqrt(jnp.maximum(1 - error, 0)))
        product = identity = jnp.eye(inner.shape[0], dtype=dtype)
        for _ in range(_STEPS_PER_ITERATION):
            scale = jnp.minimum(jnp.sqrt(3 / (1 + low + low**2)), _LARGEST_SCALE)
            low = 0.5 * scale * low * (3 - (scale * low) ** 2)
            factor = scale * (1.5 * identity - 0.5 * scale**2 * inner)
            product = multiply(factor, product)
            inner = multiply(factor, multiply(inner, factor))
        # Without the mean row, whose rounding errors would grow like small singular values.
        return centre(multiply(product, matrix), known), low, iteration + 1, error

    low = jnp.asarray(_SMALLEST_SINGULAR_VALUE, dtype)
    state = (matrix, low, jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, dtype))
    matrix, _, iterations, error = lax.while_loop(unfinished, iterate, state)
    return matrix, iterations, error <= 0.02


def simplex_of_directions(
    rows: jax.Array, known: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`nearest_simplex` of unit rows, the number of iterations, and whether they were enough."""
    count = known.sum()
    centred = centre(rows, known)
    deviation = jnp.sqrt(jnp.sum(centred**2) / jnp.maximum(count, 1).astype(rows.dtype))
    deviation = jnp.maximum(deviation, jnp.finfo(rows.dtype).eps)
    others = arbitrary_directions(known, rows.shape[1]).astype(rows.dtype)
    # In units of the spread, so that no scale of the input leaves the range of float32.
    centred = centre(centred * (1 / deviation) + _TIE_BREAK * others, known)
    factor, iterations, converged = centred_polar_factor(centred, known)
    points = jnp.where(count > 1, unit_rows(factor, known), rows)
    return points, iterations, converged | (count < 2)


def nearest_simplex(vectors: jax.Array, known: jax.Array | None = None) -> jax.Array:
    """The regular simplex with the largest mean cosine to the rows of `vectors`.

    With `P` the projection that subtracts the mean row, it is `sqrt(C / (C - 1))` times the polar
    factor of `P X`, where the rows of `X` have unit length. Points that leave it undetermined
    (equal rows, rows in a space of fewer dimensions) are completed in fixed arbitrary directions,
    by a perturbation of `1e-6` of the spread of the points; so are rows that are zero or not
    finite.

    Args:
      vectors: `[C, D]` of any length, `C <= D + 1`.
      known: `[C]` bool; rows where it is false do not count.

    Returns:
      `[C, D]` unit vectors, zero where `known` is false. A single known row is only scaled to
      unit length.

    Raises:
      UsageError: if `C > D + 1`, since no simplex has that many corners.
    """
    known = known_rows(vectors, known)
    num_points, dim = vectors.shape
    if num_points > dim + 1:
        raise UsageError(f"nearest_simplex needs at most D + 1 = {dim + 1} rows, got {num_points}")
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    return simplex_of_directions(directions(vectors, known)[0], known)[0]
