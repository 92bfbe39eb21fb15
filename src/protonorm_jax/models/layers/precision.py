"""Mixed precision: layers work in the dtype of their input, and round nothing else.

Parameters are float32. Where activations are bfloat16, a layer rounds its kernel to bfloat16 and
adds up in float32: sums over windows, channels, batches or images are rounded once, at their end,
and the gradient of a parameter never. With all arrays of one dtype none of this leaves a trace.
"""

import functools

import jax
import jax.numpy as jnp

PRECISIONS = ("float32", "bfloat16")


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """Names the dtype of sums over numbers of `dtype`: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def narrow(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rounds the wider of two arrays to the dtype of the other."""
    dtype = min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    return x.astype(dtype), y.astype(dtype)


def matmul(x: jax.Array, y: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    """Multiplies `[..., B, in]` with `[..., in, out]`, to `dtype`, by default that of `x`.

    The leading axes of both are equal.
    """
    dtype = x.dtype if dtype is None else dtype
    return x @ y if x.dtype == y.dtype == accumulator(dtype) else _matmul(x, y, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Multiplies in the narrower of two dtypes, to `dtype`; so do both gradients."""
    x, y = narrow(x, y)
    return jnp.matmul(x, y, preferred_element_type=accumulator(x.dtype)).astype(dtype)


def _matmul_forward(x, y, dtype):
    return _matmul(x, y, dtype), (x, y)


def _matmul_backward(dtype, residuals, gradient):
    del dtype
    x, y = residuals
    return _matmul(gradient, y.mT, x.dtype), _matmul(x.mT, gradient, y.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)
