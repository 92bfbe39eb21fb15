"""How many runs train at a time: as many as pay, if memory is expected to have room for them."""

import bisect
from collections.abc import Callable, Sequence


def most(num_runs: int, num_devices: int, vmap_runs: int) -> int:
    """How many runs pay at a time, were there room for any number.

    Runs that are vmapped share their steps, so that each more of them takes less time than the one
    before. Runs that take turns on a device gain nothing from one program: it takes as long as they
    would apart, but for a call of the program by the host, and needs memory for all of them.

    Args:
      num_runs: there are.
      num_devices: there are.
      vmap_runs: that a device trains in one vmapped program at most; 0 for all it has.
    """
    return num_runs if vmap_runs == 0 else min(num_devices * vmap_runs, num_runs)


def choices(most: int, num_devices: int) -> list[int]:
    """Numbers of runs to choose from, the largest first and 1 last.

    Down to the number of devices those that make calls of equal size; below it halves, of which
    each run has twice as many devices.

    Args:
      most: the largest.
      num_devices: there are.
    """
    found = {-(-most // calls) for calls in range(1, most + 1)}
    halves = {min(most, num_devices) >> times for times in range(num_devices.bit_length())}
    return sorted({one for one in found if one > num_devices} | (halves - {0}), reverse=True)


def largest(counts: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The first of `choices` that fits, or the last.

    Args:
      counts: of which none fits less well than those before it.
      fits: whether so many do.
    """
    if fits(counts[0]):
        return counts[0]
    return counts[min(bisect.bisect_left(counts, True, 1, key=fits), len(counts) - 1)]
