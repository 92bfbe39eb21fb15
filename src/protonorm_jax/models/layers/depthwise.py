"""Depthwise convolution, where each channel has a kernel of its own, as sums of shifted copies."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from protonorm_jax.models.layers import windows
from protonorm_jax.models.layers.precision import accumulator


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve_depthwise(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, by_image: bool = False
) -> jax.Array:
    """Adds up shifted copies of `[B, H, W, C]`, each times one element of `[h, w, 1, C]`.

    Args:
      x: the images.
      kernel: of each channel.
      stride: step between windows along both axes.
      padding: zeros around the image, on all sides.
      by_image: whether the gradient of the kernel is added up image by image, which the CPU does
        two to three times as fast.
    """
    total = sum(
        part * kernel[row, column].reshape(1, 1, 1, -1)
        for (row, column), part in _taps(x, kernel, stride, padding)
    )
    return total.astype(x.dtype)


def _taps(x, kernel, stride, padding):
    """Yields `(row, column), [B, H', W', C]` for the kernel elements that see the image."""
    axes = list(zip(x.shape[1:3], kernel.shape[:2], strict=True))
    shape = [windows.output_size(*axis, stride, padding) for axis in axes]
    rows, columns = _live_taps(x, kernel, stride, padding)
    taps = [(row, column) for row in rows for column in columns]
    parts = windows.shifted(
        x, [tap - padding for tap in rows], [tap - padding for tap in columns], shape, step=stride
    )
    return zip(taps, parts, strict=True)


def _live_taps(x, kernel, stride, padding):
    """The rows and the columns of the kernel that see the image."""
    axes = zip(x.shape[1:3], kernel.shape[:2], strict=True)
    return [windows.live_taps(*axis, stride, padding) for axis in axes]


def _forward(x, kernel, stride, padding, by_image):
    return convolve_depthwise(x, kernel, stride, padding, by_image), (x, kernel)


def _backward(stride, padding, by_image, residuals, gradient):
    x, kernel = residuals
    gradient = gradient.astype(accumulator(gradient.dtype))
    if by_image:
        kernel_gradient = _add_up_images(x, kernel, gradient, stride, padding)
    else:
        kernel_gradient = _add_up_places(x, kernel, gradient, stride, padding)
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


def _add_up_images(x, kernel, gradient, stride, padding):
    """Computes the gradient of each kernel element that sees the image, `[C]` by `(row, column)`.

    What is added up over the images keeps the places of `gradient` to the end: that is arithmetic
    on whole vectors, and of one image all of it stays near the core. XLA's CPU compiler adds up
    the products of all images and places for one channel after the other. Where windows are next
    to each other a row of an image is one long vector, of which a shorter one is read.
    """
    count, height, width, channels = gradient.shape
    rows, columns = _live_taps(x, kernel, stride, padding)
    taps = [(row, column) for row in rows for column in columns]
    flat = (height, width * channels) if stride == 1 else (height, width, channels)
    gradient = gradient.reshape(count, *flat)

    def parts(image):
        if stride > 1:
            return [part[0] for _, part in _taps(image, kernel, stride, padding)]
        padded = jnp.pad(image[0], ((padding, padding), (padding, padding), (0, 0)))
        padded = padded.reshape(padded.shape[0], -1)
        starts = [(row, column * channels) for row, column in taps]
        return [padded[row : row + height, at : at + width * channels] for row, at in starts]

    def add(number, sums):
        image = lax.dynamic_slice_in_dim(x, number, 1)
        of_image = lax.dynamic_index_in_dim(gradient, number, keepdims=False)
        return [total + part * of_image for total, part in zip(sums, parts(image), strict=True)]

    sums = lax.fori_loop(0, count, add, [jnp.zeros(flat, gradient.dtype) for _ in taps])
    return {
        tap: jnp.sum(total.reshape(-1, channels), axis=0)
        for tap, total in zip(taps, sums, strict=True)
    }


def _add_up_places(x, kernel, gradient, stride, padding):
    """Computes what `_add_up_images` does, for many clients at a time on a GPU.

    First each image for itself, which many threads can do, then the images of all kernel elements
    together. Added up in one go, a GPU's compiler has each sum of a client and channel done by few
    threads, beside other work that waits for them, and starts a kernel for each element.
    """
    taps, parts = zip(*_taps(x, kernel, stride, padding), strict=True)
    by_image = jnp.stack([jnp.sum(part * gradient, axis=(1, 2)) for part in parts])
    return dict(zip(taps, jnp.sum(by_image, axis=1), strict=True))


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
