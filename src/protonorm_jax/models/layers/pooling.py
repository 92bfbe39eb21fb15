"""Pooling: maximum over windows, and averages of a vector to any length."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from protonorm_jax.models.layers import forms, windows
from protonorm_jax.models.layers.precision import accumulator


def max_pool(
    x: jax.Array,
    kernel: int,
    stride: int,
    padding: int = 0,
    incomplete: bool = False,
    form: str = "auto",
) -> jax.Array:
    """Takes the maximum of every window.

    The gradient goes to the first of equal maxima, in row order, as in `lax.reduce_window`.

    Args:
      x: `[B, H, W, channels]`.
      kernel: height and width of the window, at most 11.
      stride: step between windows.
      padding: how far windows reach over the border; at most half of `kernel`.
      incomplete: whether windows that reach further over the far border count, too, as in PyTorch
        with `ceil_mode`.
      form: see `forms.FORMS`.
    Returns:
      `[B, H', W', channels]`.
    """
    if forms.chosen(form) != "native":
        return _max_of_shifted(x, kernel, stride, padding, incomplete)
    pads = [(0, 0)] * 4
    for axis in (1, 2):
        size = x.shape[axis]
        count = windows.output_size(size, kernel, stride, padding, incomplete)
        end = (count - 1) * stride + kernel - padding  # Of the last window.
        pads[axis] = (padding, max(end - size, 0))
    sides, steps = (1, kernel, kernel, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sides, steps, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_of_shifted(
    x: jax.Array, kernel: int, stride: int, padding: int, incomplete: bool
) -> jax.Array:
    """The maximum over shifted copies of the batch; arguments as for `max_pool`."""
    return _max_pool_forward(x, kernel, stride, padding, incomplete)[0]


def _max_pool_forward(x, kernel, stride, padding, incomplete):
    shape = [
        windows.output_size(size, kernel, stride, padding, incomplete) for size in x.shape[1:3]
    ]
    offsets = [tap - padding for tap in range(kernel)]
    parts = windows.shifted(x, offsets, offsets, shape, step=stride, fill=-jnp.inf)
    best = next(parts)
    winner = jnp.zeros(best.shape, jnp.int8)
    for tap, part in enumerate(parts, start=1):
        winner = jnp.where(part > best, jnp.int8(tap), winner)
        best = jnp.maximum(best, part)
    # An empty array carries the shape of the input, which the gradient needs.
    return best, (winner, jnp.zeros((0, *x.shape[1:3], 0), x.dtype))


def _max_pool_backward(kernel, stride, padding, incomplete, residuals, gradient):
    winner, empty = residuals
    size = empty.shape[1:3]
    if kernel == stride and padding == 0:
        return (_to_winners(winner, gradient, kernel, size),)
    shape = [-(-length // stride) for length in size]

    def phase(row_phase: int, column_phase: int) -> jax.Array:
        sliding = (kernel, stride, padding, incomplete)
        rows = windows.phase_taps(row_phase, size[0], *sliding)
        columns = windows.phase_taps(column_phase, size[1], *sliding)
        total = jnp.zeros(
            (gradient.shape[0], *shape, gradient.shape[3]), accumulator(gradient.dtype)
        )
        if not rows or not columns:
            return total.astype(gradient.dtype)
        taps = [row * kernel + column for row, _ in rows for column, _ in columns]
        offsets = [[offset for _, offset in pairs] for pairs in (rows, columns)]
        gradients = windows.shifted(gradient, offsets[0], offsets[1], shape)
        winners = windows.shifted(winner, offsets[0], offsets[1], shape, fill=-1)
        for tap, part, won in zip(taps, gradients, winners, strict=True):
            total = total + jnp.where(won == tap, part, 0.0)
        return total.astype(gradient.dtype)

    phases = [[phase(row, column) for column in range(stride)] for row in range(stride)]
    return (windows.interleave(phases, size),)


def _to_winners(winner, gradient, kernel, size):
    """Hands the gradient to the winners of windows that do not overlap."""
    batch, rows, columns, channels = gradient.shape
    taps = np.arange(kernel * kernel, dtype=np.int8).reshape(1, 1, kernel, 1, kernel, 1)
    whole = jnp.where(winner[:, :, None, :, None] == taps, gradient[:, :, None, :, None], 0)
    whole = whole.reshape(batch, rows * kernel, columns * kernel, channels)
    # Windows may leave the far end out, or reach over it.
    missing = [
        (0, length - covered, 0) for length, covered in zip(size, whole.shape[1:3], strict=True)
    ]
    return lax.pad(whole, jnp.zeros((), whole.dtype), ((0, 0, 0), *missing, (0, 0, 0)))


_max_of_shifted.defvjp(_max_pool_forward, _max_pool_backward)


def adaptive_average_pool(x: jax.Array, size: int, form: str = "auto") -> jax.Array:
    """Averages each row of `x` to `size` numbers, or stretches it if it has fewer.

    Output `i` is the mean of the inputs from `floor(i F / size)` up to, not including,
    `ceil((i + 1) F / size)`, which is the rule of PyTorch's `AdaptiveAvgPool1d`.

    Args:
      x: `[B, F]`.
      size: length of the result.
      form: see `forms.FORMS`.
    Returns:
      `[B, size]`.
    """
    length = x.shape[1]
    if length == size:
        return x
    # The pattern repeats: `period` inputs make `results` outputs. A TPU takes one product with the
    # whole matrix for less than the change of shape.
    repeats = 1 if forms.chosen(form) == "native" else math.gcd(length, size)
    period, results = length // repeats, size // repeats
    weights = np.zeros((period, results), np.float32)
    for result in range(results):
        start, stop = result * period // results, -(-(result + 1) * period // results)
        weights[start:stop, result] = 1.0 / (stop - start)
    product = lax.dot(
        x.reshape(-1, period), jnp.asarray(weights, x.dtype), precision=lax.Precision.HIGHEST
    )
    return product.reshape(x.shape[0], size)
