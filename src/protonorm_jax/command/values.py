"""Times and numbers as people write them on the command line."""

import argparse
import math
import re

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def duration(text: str) -> float:
    """The type of a flag that is a time, in seconds.

    Raises:
      argparse.ArgumentTypeError: it is none.
    """
    found = re.fullmatch("".join(rf"(?:(\d+){unit})?" for unit in _UNITS), text, re.ASCII)
    counts = found.groups("0") if found else ()
    total = sum(int(n) * unit for n, unit in zip(counts, _UNITS.values(), strict=False))
    if not total:
        raise argparse.ArgumentTypeError(f"must be a time such as 3h50m, 90m or 45s, got {text!r}")
    return float(total)


def natural(text: str) -> int:
    """The type of a flag that is an integer >= 0.

    Raises:
      argparse.ArgumentTypeError: it is none.
    """
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be an integer >= 0, got {text!r}")
    return value


def two_numbers(text: str) -> tuple[float, float]:
    """The type of a flag that is two numbers.

    Raises:
      argparse.ArgumentTypeError: it is none.
    """
    low, colon, high = text.partition(":")
    try:
        if colon:
            return float(low), float(high)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be LOW:HIGH, two numbers, got {text!r}")


def seconds(text: str) -> float:
    """The type of a flag that is a number of seconds.

    Raises:
      argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds > 0, got {text!r}")
    return value
