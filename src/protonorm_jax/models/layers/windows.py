"""Reading an image batch through sliding windows, one window position ("tap") at a time.

Convolutions and pools over small images are fastest as a few shifted copies of the whole batch.
All functions take batches as `[B, H, W, channels]`, and work under every JAX transformation.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax


def output_size(size: int, kernel: int, stride: int, padding: int, incomplete: bool = False) -> int:
    """Counts the window positions along one axis.

    Args:
      size: length of the input axis.
      kernel: length of the window.
      stride: step between windows.
      padding: how far windows reach over either end.
      incomplete: whether the windows that reach further over the far end count, too, if they start
        before it; PyTorch calls that `ceil_mode`.
    """
    last = size + 2 * padding - kernel
    if not incomplete:
        return last // stride + 1
    return min(-(-last // stride) + 1, -(-(size + padding) // stride))


def live_taps(size: int, kernel: int, stride: int, padding: int) -> range:
    """Lists the taps of one axis, without the leading and trailing ones that see only padding.

    Args:
      size: length of the input axis.
      kernel: length of the window.
      stride: step between windows.
      padding: zeros on either side of the input.
    Returns:
      A range of tap numbers inside `range(kernel)`.
    """
    count = output_size(size, kernel, stride, padding)
    starts = [stride * position - padding for position in range(count)]
    live = [tap for tap in range(kernel) if any(0 <= tap + start < size for start in starts)]
    return range(live[0], live[-1] + 1)


def shifted(
    x: jax.Array,
    rows: Sequence[int],
    columns: Sequence[int],
    shape: Sequence[int],
    *,
    step: int = 1,
    fill: float = 0.0,
) -> Iterator[jax.Array]:
    """Reads `x[:, row + step * i, column + step * j, :]` for every `row` and `column`.

    Args:
      x: `[B, H, W, channels]`.
      rows: offsets along the first image axis; may be negative or beyond the end.
      columns: offsets along the second image axis.
      shape: how many `i` and `j` to read, `(I, J)`.
      step: distance between two reads.
      fill: what is read outside of the image.
    Yields:
      `[B, I, J, channels]` arrays, the columns varying fastest.
    """
    pads, spans = [(0, 0, 0)], []
    for offsets, count, size in zip((rows, columns), shape, x.shape[1:3], strict=True):
        span = step * (count - 1) + 1
        pads.append((max(0, -min(offsets)), max(0, max(offsets) + span - size), 0))
        spans.append(span)
    pads.append((0, 0, 0))
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), pads) if any(map(any, pads)) else x
    for row in rows:
        for column in columns:
            top, left = row + pads[1][0], column + pads[2][0]
            yield lax.slice(
                padded,
                (0, top, left, 0),
                (x.shape[0], top + spans[0], left + spans[1], x.shape[3]),
                (1, step, step, 1),
            )


def phase_taps(
    phase: int, size: int, kernel: int, stride: int, padding: int, incomplete: bool = False
) -> list[tuple[int, int]]:
    """Lists which windows see the input positions `phase, phase + stride, ...` of one axis.

    Args:
      phase: remainder of the input position divided by `stride`.
      size: length of the input axis.
      kernel: length of the window.
      stride: step between windows.
      padding: zeros on either side of the input.
      incomplete: see `output_size`.
    Returns:
      Pairs `(tap, offset)`: through `tap`, window `position + offset` sees input
      `stride * position + phase`; windows in ascending order, none that is always out of range.
    """
    count = output_size(size, kernel, stride, padding, incomplete)
    positions = -(-size // stride)
    taps = reversed(range((phase + padding) % stride, kernel, stride))
    pairs = [(tap, (phase + padding - tap) // stride) for tap in taps]
    return [(tap, offset) for tap, offset in pairs if -positions < offset < count]


def interleave(phases: list[list[jax.Array]], shape: Sequence[int]) -> jax.Array:
    """Puts the stride x stride phases of an image batch together, the inverse of striding.

    Args:
      phases: `phases[r][c]` is `[B, I, J, channels]`, rows `r, r + stride, ...` and columns
        `c, c + stride, ...` of the result.
      shape: `(H, W)` of the result, at most `stride` times `(I, J)`.
    Returns:
      `[B, H, W, channels]`.
    """
    stride = len(phases)
    if stride == 1:
        return phases[0][0]
    batch, rows, columns, channels = phases[0][0].shape
    stacked = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    whole = stacked.reshape(batch, rows * stride, columns * stride, channels)
    return whole[:, : shape[0], : shape[1]]
