"""How many bytes arrays take on a TPU, where each lies in tiles of 8 x 128 numbers.

Its compiler orders the dimensions of each array as it likes; the last two of that order are filled
up to whole tiles. Where there are few rows a tile has fewer, and arrays of one dimension have tiles
of their own.
"""

import functools
import itertools
import math

_LANES, _ROWS = 128, 8
_LEAST = 512  # Bytes of any array.
_MOST_IN_A_ROW = 1024  # Numbers of a tile of one dimension.


def row_major(shape: tuple[int, ...], itemsize: int) -> int:
    """The bytes of an array of which the order of dimensions is given.

    Args:
      shape: of the array.
      itemsize: bytes of one number.
    """
    if len(shape) < 2:
        size = math.prod(shape)
        tile = min(max(_power_of_two(size), _LANES), _MOST_IN_A_ROW)
        return max(_whole(size, tile) * itemsize, _LEAST)
    *rest, rows, columns = shape
    tile = min(_power_of_two(rows), _ROWS)
    return max(math.prod(rest) * _whole(rows, tile) * _whole(columns, _LANES) * itemsize, _LEAST)


def in_pairs(shape: tuple[int, ...], itemsize: int) -> int:
    """The bytes of an array whose last two dimensions stay the last, in the better order of them.

    Args:
      shape: of the array.
      itemsize: bytes of one number.
    """
    turned = (*shape[:-2], *reversed(shape[-2:]))
    return min(row_major(shape, itemsize), row_major(turned, itemsize))


@functools.cache
def compact(shape: tuple[int, ...], itemsize: int) -> int:
    """The bytes of an array in the order of its dimensions that takes fewest.

    Args:
      shape: of the array.
      itemsize: bytes of one number.
    """
    if len(shape) < 2:
        return row_major(shape, itemsize)
    size = math.prod(shape)
    return min(
        row_major((size // max(rows * columns, 1), rows, columns), itemsize)
        for rows, columns in itertools.permutations(shape, 2)
    )


def _whole(size: int, tile: int) -> int:
    """The least multiple of the tile that is not less."""
    return -(-size // tile) * tile


def _power_of_two(size: int) -> int:
    """The least that is not less."""
    return 1 << max(size - 1, 0).bit_length()
