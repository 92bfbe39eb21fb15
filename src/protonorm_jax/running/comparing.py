"""What differs between what was recorded and what came out now: rows, values and arrays."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Older versions counted what is sent to clients that do not train, and had no totals.
_COUNTED_ANEW = {"floats_down", "floats_up_total", "floats_down_total"}
# In summaries: what comes out otherwise each time.
_OF_ITS_TIME = ("seconds", "compile_seconds", "warnings")
# Of what a device computes in another order. Rounding errors grow as training goes on.
RELATIVE = 1e-3
ABSOLUTE = 0.02


class Difference(NamedTuple):
    """A number that came out otherwise.

    Attributes:
      name: of the column, or of the array.
      recorded: the value then; of an array, one of its elements.
      now: the value now.
      within: whether that is within the tolerance.
    """

    name: str
    recorded: Any
    now: Any
    within: bool


def compare_rows(
    recorded: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]
) -> list[tuple[int, list[Difference]]]:
    """Row by row; one that is missing on either side differs in its round.

    Of a run that an older version recorded, columns are left out that it counted in another way, or
    that are empty now where no upload arrived.
    """
    by_round = {row["round"]: row for row in now}
    known = {row["round"] for row in recorded}
    old = not any("floats_up_total" in row for row in recorded)
    result = []
    for row in recorded:
        other = by_round.get(row["round"], {})
        names = list(dict.fromkeys([*row, *other]))
        if old:
            lost = other.get("uploads_arrived") == 0
            empty = {name for name in other if lost and other[name] is None}
            names = [name for name in names if name not in _COUNTED_ANEW | empty]
        pairs = [(name, row.get(name), other.get(name)) for name in names]
        result.append((row["round"], [_difference(*pair) for pair in pairs if pair[1] != pair[2]]))
    for round_index in by_round.keys() - known:
        result.append((round_index, [Difference("round", None, round_index, False)]))
    return sorted(result, key=lambda pair: pair[0])


def compare_summaries(recorded: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """Field by field, but for times and warnings.

    Of what an older version recorded, what it did not know or counted in another way is left out.
    """
    old = "predictor" not in recorded
    names = [name for name in recorded if not (old and name in (*_COUNTED_ANEW, "status"))]
    left = timeless({name: recorded[name] for name in names})
    found = {name: value for name, value in now.items() if name in left or not old}
    return compare_values(left, timeless(found))


def timeless(values: Mapping[str, Any]) -> dict[str, Any]:
    """A summary or a row of results without what comes out otherwise each time."""
    return {name: value for name, value in values.items() if name not in _OF_ITS_TIME}


def compare_values(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Value by value; one that is missing on either side differs."""
    pairs = ((name, recorded.get(name), now.get(name)) for name in dict.fromkeys([*recorded, *now]))
    return [_difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _difference(name: str, recorded: Any, now: Any) -> Difference:
    numbers = all(isinstance(value, int | float) for value in (recorded, now))
    within = numbers and math.isclose(recorded, now, rel_tol=RELATIVE, abs_tol=_absolute(name))
    within = within or (numbers and name == "selected_round")  # Of rounds that are nearly as good.
    return Difference(name, recorded, now, within)


def _absolute(name: str) -> float:
    """One sample more or less that is classified right moves an accuracy."""
    return ABSOLUTE if "accuracy" in name else 1e-6


def compare_arrays(recorded: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> list[Difference]:
    """Array by array: the element that is furthest from what it was; or the shapes."""
    result = []
    for name in dict.fromkeys([*recorded, *now]):
        one, other = recorded.get(name), now.get(name)
        if one is None or other is None or one.shape != other.shape:
            then, found = (None if array is None else array.shape for array in (one, other))
            result.append(Difference(name, then, found, False))
        elif not np.array_equal(one, other):
            one, other = one.astype(float), other.astype(float)  # Truth values have no difference.
            worst = np.unravel_index(np.argmax(np.abs(one - other)), one.shape)
            within = bool(np.allclose(one, other, rtol=RELATIVE, atol=RELATIVE * np.abs(one).max()))
            result.append(Difference(name, one[worst].item(), other[worst].item(), within))
    return result
