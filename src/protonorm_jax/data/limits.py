"""What an untrusted file may ask for: its word is checked before anything is allocated."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protonorm_jax.data import memory
from protonorm_jax.errors import UsageError

MAX_DIMENSIONS = 8
MIN_BOMB = 64 * 2**20
"""Bytes that a file may always unpack to, however small it is."""

MAX_RATIO = 200
"""Beyond `MIN_BOMB`, how many times its size a file may unpack to.

Deflate can do 1,032 to 1. Images of floats, which take four bytes for one of pixels, come to about
twelve.
"""

CHUNK = 2**20
"""Bytes that are unpacked at once."""


def check_unpacked(place: str | Path, unpacked: int, stored: int) -> None:
    """Refuses a file that says of itself that it unpacks to more than it should.

    Args:
      place: what the message names.
      unpacked: bytes that it says to unpack to.
      stored: bytes that it takes in its file.

    Raises:
      UsageError: it is a bomb, or does not fit into memory.
    """
    if unpacked > MIN_BOMB and unpacked > MAX_RATIO * stored:
        raise UsageError(
            f"{place} must unpack to at most {MAX_RATIO} times its size, got {unpacked} bytes from "
            f"{stored}"
        )
    check_memory(place, unpacked)


def check_memory(place: str | Path, size: int) -> None:
    """Refuses what does not fit into the memory that is free now.

    Raises:
      UsageError: it does not.
    """
    if size <= MIN_BOMB:
        return
    memory.check(size, str(place), f"{size:,} bytes")


def num_bytes(place: str | Path, shape: Sequence[int], item_size: int) -> int:
    """How many bytes an array takes.

    Args:
      place: what the message names.
      shape: as a file declares it.
      item_size: bytes of an element.

    Raises:
      UsageError: it is not the shape of an array.
    """
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise UsageError(
            f"{place} must have at most {MAX_DIMENSIONS} dimensions, none negative, got "
            f"{list(shape)[: MAX_DIMENSIONS + 1]}"
        )
    return math.prod(shape) * item_size


def read_into(file: Any, array: np.ndarray) -> int:
    """Reads the elements of an array, part by part, as they lie in memory.

    Args:
      file: with `readinto`.
      array: contiguous; receives them.

    Returns:
      How many bytes there were, at most as many as the array has.
    """
    if not array.size:
        return 0
    view = array.data.cast("B")  # Unlike a reshape, never of a copy.
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + CHUNK])
        if not count:
            break
        done += count
    return done


def shown(name: object, limit: int = 100) -> str:
    """A name from an untrusted file as a message can hold it: printable and short."""
    text = ascii(str(name)[: limit + 1])[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."
