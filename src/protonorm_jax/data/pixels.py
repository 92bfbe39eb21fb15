"""Pixels that a tool has normalised to floats, back to what they were: 0..255."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from protonorm_jax.errors import UsageError

TOLERANCE = 0.25
"""How far from a whole number a pixel of 0..255 may come out: half a step to all sides of it."""

_AT_ONCE = 2**20  # Values; what is computed of them should stay in the processor's cache.


class Scale(NamedTuple):
    """How pixels were normalised.

    Attributes:
      low: value of black.
      high: value of white.
      words: what it is called.
    """

    low: float
    high: float
    words: str


SIGNED = Scale(-1.0, 1.0, "-1..1 (mean .5, std .5)")
UNIT = Scale(0.0, 1.0, "0..1")
WHOLE = Scale(0.0, 255.0, "0..255")


class Pixels(NamedTuple):
    """Pixels as they come out.

    Attributes:
      levels: uint8, shaped as what went in.
      low: the smallest value that went in.
      high: the largest.
      error: the largest distance to a whole number, in steps of 0..255.
      integer: whether they went in as integers.
      scale: how they were taken to be normalised.
    """

    levels: np.ndarray
    low: float
    high: float
    error: float
    integer: bool
    scale: Scale


def scale_of(found: Iterable[Pixels], place: str, *, inexact: bool) -> Scale:
    """How a set was normalised, seen from all its values.

    Args:
      found: of all its parts.
      place: what messages name.
      inexact: whether values in none of the known ranges are spread from their lowest to their
        highest.

    Raises:
      UsageError: there is no such range.
    """
    parts = list(found)
    low, high = min(part.low for part in parts), max(part.high for part in parts)
    scale = _guess(low, high, any(part.integer for part in parts))
    step = TOLERANCE * (scale.high - scale.low) / 255
    if scale.low - step <= low and high <= scale.high + step:
        return scale
    if inexact and low < high:
        return Scale(low, high, f"{low:g}..{high:g}")
    raise UsageError(
        f"{place} must hold pixels in -1..1, 0..1 or 0..255 unless --inexact-pixels is given, got "
        f"{low:g}..{high:g}"
    )


def _guess(low: float, high: float, integer: bool) -> Scale:
    """The only range that can hold these values."""
    if integer or (high > 1 + TOLERANCE / 255 and low >= 0):
        return WHOLE
    # A step of tolerance: what is black in 0..1 may come out of a division a little below.
    return SIGNED if low < -TOLERANCE / 255 else UNIT


def convert(values: np.ndarray, scale: Scale | None, place: str) -> Pixels:
    """The nearest pixels in 0..255.

    Args:
      values: floats or integers `[n, ...]`, not empty.
      scale: how they were normalised; None to see it from these values alone.
      place: what messages name.

    Raises:
      UsageError: they are no numbers, or not finite.
    """
    if values.dtype.kind not in "iuf":
        raise UsageError(f"{place} must be numbers, got dtype {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UsageError(
            f"{place} must be finite, got {low if np.isnan(low) else f'{low}..{high}'}"
        )
    integer = values.dtype.kind != "f"
    scale = _guess(low, high, integer) if scale is None else scale
    if values.dtype == np.uint8 and scale == WHOLE:
        return Pixels(values, low, high, 0.0, integer, scale)
    levels = np.empty(values.shape, np.uint8)
    error = 0.0
    rows = max(1, _AT_ONCE * len(values) // values.size)
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        exact = values[part].astype(np.promote_types(values.dtype, np.float32))
        exact -= scale.low
        exact *= 255 / (scale.high - scale.low)
        nearest = np.rint(exact)
        error = max(error, float(np.abs(exact - nearest).max()))
        levels[part] = nearest.clip(0, 255)
    return Pixels(levels, low, high, error, integer, scale)


def restore(
    read: Callable[[Scale | None], Iterable[Pixels]], place: str, *, inexact: bool
) -> tuple[list[np.ndarray], Scale]:
    """The pixels of a set whose parts are read one after the other.

    How it was normalised is known for certain only after the last part. Where a part alone looks as
    if it had been another range (all of it bright), all are read a second time.

    Args:
      read: reads all parts and converts them.
      place: what messages name.
      inexact: whether floats between the 256 values are rounded to the nearest.

    Returns:
      uint8 arrays of the parts, and how they were normalised.

    Raises:
      UsageError: the values are no pixels of a known range or, unless `inexact`, lie between them.
    """
    parts = list(read(None))
    scale = scale_of(parts, place, inexact=inexact)
    if any(part.scale != scale for part in parts):
        parts = list(read(scale))
    error = max(part.error for part in parts)
    if error > TOLERANCE and not inexact:
        raise UsageError(
            f"{place} must hold whole pixels, normalised to {scale.words}, unless "
            f"--inexact-pixels is given, got values up to {error:.3f} steps of 255 off"
        )
    return [part.levels for part in parts], scale
