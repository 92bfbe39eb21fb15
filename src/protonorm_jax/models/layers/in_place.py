"""An order of gradients in which a step can change parameters where they lie.

XLA changes a parameter in place only if it can tell that nobody reads the old value afterwards. The
gradient of a layer's input does read it, and neither of the layer's two gradients needs the other:
the CPU's compiler then copies every parameter in every step, which took a twelfth of the steps of
MobileNet and EfficientNet and an eighth of ShuffleNet's. So the gradient of a kernel is made to
wait for that of the input.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from protonorm_jax.models.layers.precision import matmul

Order = tuple[()] | None
"""Whether the input's gradient is wanted: `()`, or None if nobody reads it, as of a net's first
layer. A pytree without leaves, so that it is still known where gradients are computed."""


def order_of(primal: CustomVJPPrimal) -> Order:
    """Of a layer with this input, in a forward pass defined with `symbolic_zeros`."""
    return () if primal.perturbed else None


def in_order(x_gradient: jax.Array, kernel_gradient: jax.Array, order: Order) -> jax.Array:
    """Returns `kernel_gradient`, bit by bit, computed after `x_gradient` if that is wanted.

    Args:
      x_gradient: of the layer's input, not empty.
      kernel_gradient: of what the layer multiplies it with.
      order: of the layer.
    """
    if order is None:
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
    return y, (pull, order_of(rows))


def _backward(residuals, gradient):
    pull, order = residuals
    of_rows, of_matrix = pull(dense(gradient))
    return of_rows, in_order(of_rows, of_matrix, order)


product.defvjp(_forward, _backward, symbolic_zeros=True)
