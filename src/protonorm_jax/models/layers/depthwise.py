"""Depthwise convolution, where each channel has a kernel of its own, as sums of shifted copies."""

import functools

import jax
import jax.numpy as jnp

from protonorm_jax.models.layers import windows
from protonorm_jax.models.layers.precision import accumulator


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Adds up shifted copies of `[B, H, W, C]`, each times one element of `[h, w, 1, C]`."""
    total = sum(
        part * kernel[row, column].reshape(1, 1, 1, -1)
        for (row, column), part in _taps(x, kernel, stride, padding)
    )
    return total.astype(x.dtype)


def _taps(x, kernel, stride, padding):
    """Yields `(row, column), [B, H', W', C]` for the kernel elements that see the image."""
    axes = list(zip(x.shape[1:3], kernel.shape[:2], strict=True))
    shape = [windows.output_size(*axis, stride, padding) for axis in axes]
    rows, columns = (windows.live_taps(*axis, stride, padding) for axis in axes)
    taps = [(row, column) for row in rows for column in columns]
    parts = windows.shifted(
        x, [tap - padding for tap in rows], [tap - padding for tap in columns], shape, step=stride
    )
    return zip(taps, parts, strict=True)


def _forward(x, kernel, stride, padding):
    return convolve_depthwise(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, gradient):
    x, kernel = residuals
    gradient = gradient.astype(accumulator(gradient.dtype))
    kernel_gradient = {
        tap: jnp.sum(part * gradient, axis=(0, 1, 2))
        for tap, part in _taps(x, kernel, stride, padding)
    }
    nothing = jnp.zeros(kernel.shape[3], kernel.dtype)
    rows = [
        jnp.stack(
            [kernel_gradient.get((row, column), nothing) for column in range(kernel.shape[1])]
        )
        for row in range(kernel.shape[0])
    ]
    shape = [-(-size // stride) for size in x.shape[1:3]]
    phases = [
        [
            _phase(gradient, x, kernel, (row, column), shape, stride, padding)
            for column in range(stride)
        ]
        for row in range(stride)
    ]
    return windows.interleave(phases, x.shape[1:3]), jnp.stack(rows)[:, :, None]


def _phase(gradient, x, kernel, phase, shape, stride, padding):
    """Computes the gradient of the input positions `phase` modulo `stride`."""
    axes = zip(phase, x.shape[1:3], kernel.shape[:2], strict=True)
    rows, columns = (windows.phase_taps(*axis, stride, padding) for axis in axes)
    if not rows or not columns:
        return jnp.zeros((x.shape[0], *shape, x.shape[3]), x.dtype)
    taps = [(row, column) for row, _ in rows for column, _ in columns]
    parts = windows.shifted(
        gradient, [offset for _, offset in rows], [offset for _, offset in columns], shape
    )
    total = sum(
        part * kernel[tap].reshape(1, 1, 1, -1) for tap, part in zip(taps, parts, strict=True)
    )
    return total.astype(x.dtype)


convolve_depthwise.defvjp(_forward, _backward)
