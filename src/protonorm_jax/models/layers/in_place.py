"""An order of gradients in which a step can change kernels where they lie.

XLA changes a parameter in place only if it can tell that nobody reads the old value afterwards. The
gradient of a layer's input does read it, and neither of the layer's two gradients needs the other:
the CPU's compiler then copies the parameter in every step, which for the kernels of convolutions
took a twelfth of the steps of MobileNet and up to an eighth of ShuffleNet's. So their gradient is
made to wait for that of the input. The same gained nothing for depthwise kernels, batch norms and
linear layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from protonorm_jax.models.layers.precision import matmul

Wanted = tuple[()] | None
"""Whether the gradient of a layer's input is wanted: `()`, or None if nobody reads it, as of the
first layer of a net. A pytree without leaves, so that a backward pass knows it when traced."""


def wanted_of(x: CustomVJPPrimal) -> Wanted:
    """Of the input of a layer, as its forward pass gets it by `symbolic_zeros`."""
    return () if x.perturbed else None


def in_order(x_gradient: jax.Array, kernel_gradient: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns `kernel_gradient`, bit by bit, computed after `x_gradient` if that is wanted.

    Args:
      x_gradient: of the layer's input, not empty.
      kernel_gradient: of what the layer multiplies it with.
      wanted: see `Wanted`.
    """
    if wanted is None:
        return kernel_gradient
    some = x_gradient[(0,) * x_gradient.ndim]
    always = (some == some) | (some != some)  # XLA does not see that it is.
    return jnp.where(always, kernel_gradient, jnp.zeros((), kernel_gradient.dtype))


def dense(gradient: Any) -> jax.Array:
    """What comes back to a layer, of which JAX may say that it is zero rather than compute it."""
    if isinstance(gradient, SymbolicZero):
        return jnp.zeros(gradient.shape, gradient.dtype)
    return gradient


@jax.custom_vjp
def product(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies `[N, in]` with `[in, out]`, to the dtype of `rows`; see `precision.matmul`."""
    return matmul(rows, matrix)


def _forward(rows, matrix):
    y, pull = jax.vjp(matmul, rows.value, matrix.value)
    return y, (pull, wanted_of(rows))


def _backward(residuals, gradient):
    pull, wanted = residuals
    of_rows, of_matrix = pull(dense(gradient))
    return of_rows, in_order(of_rows, of_matrix, wanted)


product.defvjp(_forward, _backward, symbolic_zeros=True)
