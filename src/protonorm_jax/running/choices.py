"""What is chosen of all that was tried: by mean validation accuracy, and by nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protonorm_jax import settings
from protonorm_jax.running.points import Cell, Trials

_AT_THE_EDGE = 0.05
"""So near to an end of its range, as a share of it, a value is at the edge."""


def choose(
    trials: Trials, rows: Sequence[Mapping[str, Any]], seconds: Sequence[float]
) -> list[dict[str, Any]]:
    """The choice in each cell, JSON-ready.

    The point with the highest mean validation accuracy is chosen, the first tried of several. One
    of which a run has diverged is chosen only where there is no other: then one of which the fewest
    have. It has no validation accuracy, and in its test accuracy such runs count with the
    yardstick's.

    Args:
      trials: what was tried.
      rows: of the tuning runs, see `results.jsonl`, in their order.
      seconds: that each of these runs took.

    Returns:
      For each cell `changes`, `chosen` (the number of the point), `point`, `tried`, `edges` (the
      settings of the point that are at the edge of what was tried) and `seconds`. `tried` has for
      each point `point`, the means over its seeds `validation_accuracy` and `test_accuracy` by the
      method's own predictor in the selected rounds, how many have `diverged`, and `seconds`.
    """
    each = len(trials.seeds)
    groups = [
        (rows[first : first + each], seconds[first : first + each])
        for first in range(0, len(rows), each)
    ]
    result, first = [], 0
    for cell in trials.cells:
        own = groups[first : first + len(cell.points)]
        first += len(cell.points)
        tried = [_tried(point, *group) for point, group in zip(cell.points, own, strict=True)]
        ranks = [_rank(one) for one in tried]
        chosen = ranks.index(min(ranks))
        result.append(
            {
                "changes": cell.changes,
                "chosen": chosen,
                "point": cell.points[chosen],
                "tried": tried,
                "edges": edges(cell, chosen),
                "seconds": sum(one["seconds"] for one in tried),
            }
        )
    return result


def edges(cell: Cell, chosen: int) -> list[str]:
    """The settings of a point that are at an end of what was tried: more may lie beyond.

    A learning rate is if it is the lowest or highest of the grid, a setting that was drawn if it is
    within 5 % of an end of its range, along its scale.
    """
    names = []
    for name, found in cell.ranges.items():
        value = cell.points[chosen][name]
        if "values" in found:
            at_edge = value in (min(found["values"]), max(found["values"]))
        else:
            drawn = settings.Range(found["low"], found["high"], found["scale"])
            place = drawn.place(value)
            at_edge = min(place, 1 - place) <= _AT_THE_EDGE
        names += [name] * at_edge
    return names


def _tried(
    point: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], seconds: Sequence[float]
) -> dict[str, Any]:
    """What came of a point."""
    diverged = sum(row["status"] == "failed" for row in rows)
    validation = [None if diverged else _selected(row, "_validation") for row in rows]
    test = [
        row.get("majority_accuracy") if row["status"] == "failed" else _selected(row, "")
        for row in rows
    ]
    return {
        "point": dict(point),
        "validation_accuracy": _mean(validation),
        "test_accuracy": _mean(test),
        "diverged": diverged,
        "seconds": float(sum(seconds)),
    }


def _selected(row: Mapping[str, Any], part: str) -> float | None:
    """An accuracy by the method's own predictor, in the round that validation has selected."""
    return row.get(f"{row.get('predictor')}{part}_accuracy_selected")


def _mean(values: Sequence[float | None]) -> float | None:
    """None if one of them is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _rank(tried: Mapping[str, Any]) -> tuple[int, float]:
    """The least is the best."""
    accuracy = tried["validation_accuracy"]
    return tried["diverged"], 1.0 if accuracy is None else -accuracy
