"""Two-dimensional convolution in the forms that compile to fast programs.

One parameter layout serves every form: kernels are `[height, width, in, out]`, depthwise kernels
`[height, width, 1, channels]`. Images are `[B, H, W, channels]`.

Why not `lax.conv_general_dilated` throughout: on CPU its gradients inside `lax.scan` and its
depthwise and small-image cases fall back to naive loops (up to several hundred times slower), and
under `vmap` over clients it turns into a grouped convolution that does the same there and on GPU.
TPUs are made for it: the other forms move three to five times the bytes there.

All forms can be differentiated in reverse mode any number of times (forward mode is not available
through the custom gradients), and give the same numbers to rounding. They work in the dtype of the
image; see `precision`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from protonorm_jax.models.layers import forms, in_place, windows
from protonorm_jax.models.layers.depthwise import convolve_depthwise
from protonorm_jax.models.layers.precision import accumulator, matmul, narrow

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_MERGED_CHANNELS = 16  # One vector of the CPU, see `_few_channels`.
_ROWS_OF_PART = 512  # At least, see `_product_in_parts`.


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, form: str = "auto"
) -> jax.Array:
    """Convolves an image batch; picks the fastest form for the shapes at hand.

    A kernel with one input channel on an image with several is depthwise: channel `c` of the
    output comes from channel `c` of the input alone.

    Args:
      x: `[B, H, W, in]`.
      kernel: `[height, width, in, out]`, or `[height, width, 1, in]` for depthwise.
      stride: step between windows along both axes.
      padding: zeros around the image, on all sides.
      form: see `forms.FORMS`. Kernels of 1 x 1, kernels as long as the stride, and depthwise
        kernels have one fast form each, which `canonical` and `im2col` share but for the gradient
        of depthwise kernels.
    Returns:
      `[B, H', W', out]`, in the dtype of `x`.
    """
    height, width, inputs, _ = kernel.shape
    depthwise = inputs == 1 and x.shape[3] > 1
    form = forms.chosen(form)
    if form == "native":
        groups = x.shape[3] if depthwise else 1
        pads = ((padding, padding), (padding, padding))
        return lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (stride, stride),
            pads,
            dimension_numbers=_LAYOUT,
            feature_group_count=groups,
        )
    if depthwise:
        return convolve_depthwise(x, kernel, stride, padding, form == "canonical")
    product = _product_in_parts if form == "im2col" else in_place.product
    if height == width == 1 and padding == 0:
        return _pointwise(x, kernel, stride, product)
    if height == width == stride and padding == 0:
        return _patches(x, kernel, product)
    size = min(x.shape[1:3])
    if form == "im2col" or size < max(height, width) or (stride > 1 and size <= 4):
        return _im2col(x, kernel, stride, padding, product)
    window = _Window(stride, ((padding, padding), (padding, padding)), 1, 1)
    if x.shape[3] * width <= _MERGED_CHANNELS:
        return _few_channels(x, kernel, window)
    return _canonical(x, kernel, window, x.dtype)


_Product = Callable[[jax.Array, jax.Array], jax.Array]


def _pointwise(x: jax.Array, kernel: jax.Array, stride: int, product: _Product) -> jax.Array:
    """Applies a 1 x 1 kernel as one matrix product."""
    x = x[:, ::stride, ::stride]
    y = product(x.reshape(-1, x.shape[3]), kernel[0, 0])
    return y.reshape(*x.shape[:3], kernel.shape[3])


def _patches(x: jax.Array, kernel: jax.Array, product: _Product) -> jax.Array:
    """Cuts images into patches, one window each, and multiplies them with the kernel."""
    side, _, inputs, outputs = kernel.shape
    rows, columns = (size // side for size in x.shape[1:3])
    x = x[:, : rows * side, : columns * side].reshape(-1, rows, side, columns, side, inputs)
    patches = x.swapaxes(2, 3).reshape(-1, side * side * inputs)
    return product(patches, kernel.reshape(-1, outputs)).reshape(-1, rows, columns, outputs)


def _im2col(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, product: _Product
) -> jax.Array:
    """Multiplies the windows, written out as rows of a matrix, with the kernel."""
    axes = list(zip(x.shape[1:3], kernel.shape[:2], strict=True))
    shape = [windows.output_size(*axis, stride, padding) for axis in axes]
    rows, columns = (windows.live_taps(*axis, stride, padding) for axis in axes)
    wide = x.astype(accumulator(x.dtype))  # The gradient adds up the windows that see a pixel.
    parts = windows.shifted(
        wide,
        [tap - padding for tap in rows],
        [tap - padding for tap in columns],
        shape,
        step=stride,
    )
    patches = jnp.concatenate(list(parts), axis=3).astype(x.dtype)
    outputs = kernel.shape[3]
    matrix = kernel[rows.start : rows.stop, columns.start : columns.stop].reshape(-1, outputs)
    y = product(patches.reshape(-1, matrix.shape[0]), matrix)
    return y.reshape(x.shape[0], *shape, outputs)


@jax.custom_vjp
def _product_in_parts(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies `[N, in]` with `[in, out]`; the gradient of the matrix is added up in parts.

    It is a product of few numbers, each a sum over all rows. A GPU has threads for few numbers, and
    one long sum after the other: parts keep more of it busy.
    """
    return matmul(rows, matrix)


def _product_forward(rows, matrix):
    return matmul(rows, matrix), (rows, matrix)


def _product_backward(residuals, gradient):
    rows, matrix = residuals
    (length, inputs), outputs = rows.shape, matrix.shape[1]
    # Together the parts are smaller by far than what they are made of.
    most = min(length // _ROWS_OF_PART, length * (inputs + outputs) // (4 * inputs * outputs))
    count = next(parts for parts in range(max(most, 1), 0, -1) if length % parts == 0)
    parts = matmul(
        rows.reshape(count, -1, inputs).mT, gradient.reshape(count, -1, outputs), matrix.dtype
    )
    # XLA would make one product of them again.
    total = lax.optimization_barrier(parts).sum(axis=0) if count > 1 else parts[0]
    return matmul(gradient, matrix.mT, rows.dtype), total


_product_in_parts.defvjp(_product_forward, _product_backward)


class _Window(NamedTuple):
    """How a kernel slides, equal along both axes but for the padding.

    Attributes:
      stride: step between windows.
      padding: `((top, bottom), (left, right))`; negative numbers crop.
      input_dilation: distance between neighbouring input elements.
      kernel_dilation: distance between neighbouring kernel elements.
    """

    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    input_dilation: int
    kernel_dilation: int


_PLAIN = _Window(1, ((0, 0), (0, 0)), 1, 1)
_ZEROS_WORTH_AVOIDING = 1.25  # Image over output size, see `_add_up_windows`.
# See `_kernel_gradient`: what to add up in one convolution, the images that it has at least, how
# many convolutions there are at most (each is to be compiled), and for how many channels it pays.
_LONG_SUM, _FEW_IMAGES, _MOST_PARTS, _MANY_CHANNELS = 1024, 4, 8, 32


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical(x: jax.Array, kernel: jax.Array, window: _Window, dtype: jnp.dtype) -> jax.Array:
    """Convolves `[B, H, W, in]` with `[height, width, in, out]`, to `dtype`.

    Both gradients are convolutions of the same kind with the operands turned round, so that XLA
    need not rewrite anything: its CPU compiler does that at the top level of a program only, not
    in the body of a loop.
    """
    x, kernel = narrow(x, kernel)
    return lax.conv_general_dilated(
        x,
        kernel,
        (window.stride, window.stride),
        window.padding,
        lhs_dilation=(window.input_dilation, window.input_dilation),
        rhs_dilation=(window.kernel_dilation, window.kernel_dilation),
        dimension_numbers=_LAYOUT,
        preferred_element_type=accumulator(x.dtype),
    ).astype(dtype)


def _canonical_forward(x, kernel, window, dtype):
    wanted, x, kernel = in_place.wanted_of(x), x.value, kernel.value
    return _canonical(x, kernel, window, dtype), (x, kernel, wanted)


def _canonical_backward(window, dtype, residuals, gradient):
    del dtype
    x, kernel, wanted = residuals
    gradient = in_place.dense(gradient)
    of_x, of_kernel = _turned(window, x, kernel, gradient)
    padded = x.shape[1] * x.shape[2] > _ZEROS_WORTH_AVOIDING * gradient.shape[1] * gradient.shape[2]
    if window == _PLAIN and padded:
        x_gradient = _add_up_windows(gradient, kernel, x.shape).astype(x.dtype)
    else:
        x_gradient = _canonical(
            gradient,
            kernel[::-1, ::-1].swapaxes(2, 3),
            of_x,
            x.dtype,
        )
    kernel_gradient = _kernel_gradient(x, kernel, gradient, of_kernel)
    return x_gradient, in_place.in_order(x_gradient, kernel_gradient, wanted)


_canonical.defvjp(_canonical_forward, _canonical_backward, symbolic_zeros=True)


def _turned(
    window: _Window, x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[_Window, _Window]:
    """The windows of the convolutions that have the gradients of image and kernel as results."""
    stride, _, input_dilation, kernel_dilation = window
    x_padding, kernel_padding = [], []
    for axis in range(2):
        low = window.padding[axis][0]
        x_reach = (x.shape[1 + axis] - 1) * input_dilation
        kernel_reach = (kernel.shape[axis] - 1) * kernel_dilation
        reach = (gradient.shape[1 + axis] - 1) * stride
        x_padding.append((kernel_reach - low, x_reach - reach + low))
        kernel_padding.append((low, kernel_reach + reach - x_reach - low))
    return (
        _Window(input_dilation, (x_padding[0], x_padding[1]), stride, kernel_dilation),
        _Window(kernel_dilation, (kernel_padding[0], kernel_padding[1]), input_dilation, stride),
    )


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, window: _Window
) -> jax.Array:
    """Computes the gradient of the kernel, some images at a time where there is much to add up.

    The CPU's convolution takes up to twice as long for one long sum as for its parts.

    Args:
      x: `[B, H, W, in]`.
      kernel: `[height, width, in, out]`, for its shape and dtype.
      gradient: `[B, H', W', out]`.
      window: of the convolution that has it as its result, see `_turned`.
    """
    batch, rows, columns, outputs = gradient.shape
    length = batch
    if outputs >= _MANY_CHANNELS:
        count = min(-(-batch * rows * columns // _LONG_SUM), _MOST_PARTS)
        length = max(_FEW_IMAGES, -(-batch // count))
    parts = [
        _canonical(
            x[start : start + length].transpose(3, 1, 2, 0),
            gradient[start : start + length].transpose(1, 2, 0, 3),
            window,
            accumulator(x.dtype),
        )
        for start in range(0, batch, length)
    ]
    return functools.reduce(jnp.add, parts).astype(kernel.dtype).transpose(1, 2, 0, 3)


def _add_up_windows(gradient: jax.Array, kernel: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Computes the input gradient of a convolution without stride and padding.

    As a convolution it would multiply with the zeros around `gradient`, which are up to half of
    all. Here each pixel of `gradient` is multiplied with the kernel, and the windows that come of
    it are added up where they overlap, first along the columns.

    Args:
      gradient: `[B, H', W', out]`.
      kernel: `[height, width, in, out]`.
      shape: `(B, H, W, in)` of the result.
    """
    batch, rows, columns, outputs = gradient.shape
    height, width, inputs, _ = kernel.shape
    gradient, kernel = narrow(gradient, kernel)
    sums = accumulator(gradient.dtype)
    strips = jnp.zeros((batch, rows, shape[2], height * inputs), sums)
    for column in range(width):
        matrix = kernel[:, column].transpose(2, 0, 1).reshape(outputs, height * inputs)
        part = lax.dot(gradient.reshape(-1, outputs), matrix, preferred_element_type=sums)
        part = part.reshape(batch, rows, columns, height * inputs)
        strips = _add_at(strips, part, (0, 0, column, 0))
    strips = strips.reshape(batch, rows, shape[2], height, inputs)
    result = jnp.zeros(shape, sums)
    for row in range(height):
        result = _add_at(result, strips[:, :, :, row], (0, row, 0, 0))
    return result


def _add_at(whole: jax.Array, part: jax.Array, start: tuple[int, ...]) -> jax.Array:
    """Adds `part` to `whole` from `start` on, in place where XLA can."""
    old = lax.dynamic_slice(whole, start, part.shape)
    return lax.dynamic_update_slice(whole, old + part, start)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _few_channels(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    """Convolves images of few channels, such as colours; arguments as for `_canonical`.

    Writes out the windows for one matrix product. The columns that a window sees become channels
    first, filled up with zeros to whole vectors of the CPU, which are then copied row by row.
    """
    height, width, inputs, outputs = kernel.shape
    stride = window.stride
    pads = [(0, 0, 0), *((low, high, 0) for low, high in window.padding), (0, 0, 0)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), pads)
    last_row, last_column = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    missing = _MERGED_CHANNELS - width * inputs
    merged = jnp.concatenate(
        [padded[:, :, column : column + last_column : stride] for column in range(width)], axis=3
    )
    merged = jnp.pad(merged, ((0, 0), (0, 0), (0, 0), (0, missing)))
    patches = jnp.concatenate(
        [merged[:, row : row + last_row : stride] for row in range(height)], axis=3
    )
    rows = jnp.pad(kernel.reshape(height, width * inputs, outputs), ((0, 0), (0, missing), (0, 0)))
    y = matmul(patches.reshape(-1, patches.shape[3]), rows.reshape(-1, outputs))
    return y.reshape(*patches.shape[:3], outputs)


def _few_channels_forward(x, kernel, window):
    wanted, x, kernel = in_place.wanted_of(x), x.value, kernel.value
    return _few_channels(x, kernel, window), (x, kernel, wanted)


def _few_channels_backward(window, residuals, gradient):
    return _canonical_backward(window, None, residuals, gradient)


_few_channels.defvjp(_few_channels_forward, _few_channels_backward, symbolic_zeros=True)
