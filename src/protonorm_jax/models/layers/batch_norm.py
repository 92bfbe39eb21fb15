"""Batch normalisation over image batches of which some rows may be padding."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from protonorm_jax.models.layers import forms
from protonorm_jax.models.layers.precision import accumulator


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array | None,
    epsilon: float,
    form: str = "auto",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by the mean and the variance of the batch.

    Can be differentiated in reverse mode any number of times. Works in float32 where `x` is
    bfloat16. The variance is exact to about 3e-7 (mean / deviation)^2, relatively.

    Args:
      x: `[B, H, W, C]`.
      scale: `[C]`.
      bias: `[C]`.
      mask: `[B]` float, 1 for real rows and 0 for padding, or None if all rows are real. Padding
        counts in no sum, and comes out as `bias` so that no layer can blow it up.
      epsilon: added to the variance.
      form: see `forms.FORMS`.
    Returns:
      `[B, H, W, C]` in the dtype of `x`, and the mean and the biased variance, `[C]` each, through
      which no gradient flows.
    """
    return _forward(x, scale, bias, mask, epsilon, form)[0]


def count_elements(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Counts the numbers that enter the statistics of one channel of `x`."""
    rows = jnp.asarray(float(x.shape[0])) if mask is None else jnp.sum(mask)
    return rows * (x.shape[1] * x.shape[2])


def _channel(vector: jax.Array) -> jax.Array:
    return vector.reshape(1, 1, 1, -1)


def _row(mask: jax.Array) -> jax.Array:
    return mask.reshape(-1, 1, 1, 1)


def _totals(x, masks, form):
    """Adds up each channel of `[B, H, W, C]` over the rows that are real, for each of the masks.

    Row by row first, so that the mask meets `[B, C]` numbers only: the CPU's compiler would write
    out a masked `x`, or one with the mean subtracted, before it adds it up. The TPU's adds up
    masked numbers in one pass, and would need two for rows.
    """
    if forms.chosen(form) == "native":
        return [jnp.sum(x if mask is None else x * _row(mask), axis=(0, 1, 2)) for mask in masks]
    rows = jnp.sum(x, axis=(1, 2))
    if forms.chosen(form) == "im2col" and any(mask is None for mask in masks):
        # Of sums of sums XLA makes one, which on a GPU few threads would do.
        rows = lax.optimization_barrier(rows)
    return [jnp.sum(rows if mask is None else rows * mask.reshape(-1, 1), axis=0) for mask in masks]


def _normalized(x, mean, inverse, mask):
    """Returns `(x - mean) * inverse`, zero in padding."""
    result = (x - _channel(mean)) * _channel(inverse)
    return result if mask is None else result * _row(mask)


def _forward(x, scale, bias, mask, epsilon, form):
    dtype, x = x.dtype, x.astype(accumulator(x.dtype))
    # XLA may or may not turn a division by a broadcast number into this product; written out, the
    # bits do not depend on its choice.
    share = 1.0 / jnp.maximum(count_elements(x, mask), 1.0).astype(x.dtype)
    (total,) = _totals(x, [mask], form)
    mean = total * share
    # In one pass over `x`. The mean of what a layer puts out is at most a few deviations; taking it
    # away first would cost the step of MobileNet a quarter more time.
    (squares,) = _totals(x * x, [mask], form)
    variance = jnp.maximum(squares * share - mean * mean, 0.0)
    inverse = lax.rsqrt(variance + epsilon)
    y = _normalized(x, mean, inverse, mask) * _channel(scale) + _channel(bias)
    return (y.astype(dtype), mean, variance), (x.astype(dtype), mean, inverse, scale, mask, share)


def _backward(epsilon, form, residuals, gradients):
    del epsilon
    x, mean, inverse, scale, mask, share = residuals
    dtype, x = x.dtype, x.astype(accumulator(x.dtype))
    gradient = gradients[0].astype(x.dtype)
    masks = [None] if mask is None else [None, mask]
    sums = _totals(gradient, masks, form)
    bias_gradient, total = sums[0], sums[-1]
    # The sum over the gradient times the normalized `x`, which is zero in padding.
    (along_x,) = _totals(gradient * x, [mask], form)
    scale_gradient = (along_x - mean * total) * inverse
    shared = (x - _channel(mean)) * _channel(inverse * scale_gradient * share)
    x_gradient = (gradient - _channel(total * share) - shared) * _channel(scale * inverse)
    if mask is not None:
        x_gradient = x_gradient * _row(mask)
    return x_gradient.astype(dtype), scale_gradient, bias_gradient, None


normalize_batch.defvjp(_forward, _backward)
