"""Weight matrices at a lower rank, as they are sent: less, and nearly the same."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_batching.sequential_vmap  # A batch of them blocks XLA's threads on CPU.
def spectrum(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues `[n]` of a symmetric matrix `[n, n]`, the largest first, and their vectors.

    The vectors are the columns of the second array, `[n, n]`.
    """
    values, vectors = jnp.linalg.eigh(gram)
    return values[::-1], vectors[:, ::-1]


def truncate(
    matrix: jax.Array, energy: jax.Array, *, which: str = "smaller"
) -> tuple[jax.Array, jax.Array]:
    """The nearest matrix of the least rank with more than a share of the energy.

    Energy is the sum of squared singular values. A matrix that is zero, or has entries that are not
    finite, stays as it is.

    Args:
      matrix: `[m, n]` float32.
      energy: `[]` float32, the share, at most 1.
      which: `"smaller"` leaves a matrix as it is if its singular vectors and values are as many
        numbers as it has entries, `r (m + n + 1) >= m n` at rank r; `"all"` does not.

    Returns:
      The matrix `[m, n]`, and how many numbers are sent for it, `[]` int32.
    """
    rows, columns = matrix.shape
    if rows < columns:
        nearest, floats = truncate(matrix.T, energy, which=which)
        return nearest.T, floats
    # The squared singular values of a matrix are the eigenvalues of this smaller one, which takes
    # a third to a twentieth of the time to decompose.
    gram = _product(matrix.T, matrix)
    values, vectors = spectrum(jnp.where(jnp.isfinite(gram).all(), gram, 0.0))
    values = jnp.maximum(values, 0.0)
    total = jnp.sum(values)
    rank = jnp.minimum(jnp.sum(jnp.cumsum(values) <= energy * total) + 1, columns)
    kept = jnp.where(jnp.arange(columns).reshape(1, -1) < rank, vectors, 0.0)
    nearest = _product(matrix, _product(kept, kept.T))
    floats = rank * (rows + columns + 1)
    whole = total == 0
    if which == "smaller":
        whole |= floats >= matrix.size
    return jnp.where(whole, matrix, nearest), jnp.where(whole, matrix.size, floats)


def compress(variables: Any, energy: jax.Array, *, which: str = "smaller") -> tuple[Any, jax.Array]:
    """Truncates all weight matrices of a net, and leaves biases and batch norm as they are.

    Args:
      variables: of the net. A kernel `[height, width, in, out]` is a matrix
        `[height * width * in, out]`.
      energy: see `truncate`.
      which: see `truncate`.

    Returns:
      The variables as they arrive, and how many numbers are sent for them, `[]` int32.
    """
    leaves, structure = jax.tree.flatten(variables)
    sent, floats = [], jnp.int32(0)
    for leaf in leaves:
        if leaf.ndim < 2:
            sent.append(leaf)
            floats += leaf.size
        else:
            matrix, size = truncate(leaf.reshape(-1, leaf.shape[-1]), energy, which=which)
            sent.append(matrix.reshape(leaf.shape))
            floats += size
    return jax.tree.unflatten(structure, sent), floats


def _product(one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.dot(one, other, precision=jax.lax.Precision.HIGHEST)
