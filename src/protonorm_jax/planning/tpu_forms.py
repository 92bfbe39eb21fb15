"""Whose clients go together in one vmapped step on a TPU: a table of what its compiler expects.

`experiments/bench/tpu_forms.py` makes it.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax.models import heads

PATH = Path(__file__).with_suffix(".json")
_TIE = 0.8  # Estimates of which the smaller is at least this part of the other say nothing.


def go_together(name: str, image_shape: Sequence[int]) -> bool:
    """Whether clients of a model are better vmapped; false for models that are not in the table.

    Args:
      name: of the model.
      image_shape: of its images; of several in the table that with the nearest number of pixels
        counts.
    """
    net, _ = heads.split(name)
    rows = [row for row in read()["rows"] if row["net"] == net]
    if not rows:
        return False

    def distance(row: Mapping[str, Any]) -> float:
        return abs(math.log(math.prod(row["shape"][:2]) / math.prod(image_shape[:2])))

    return is_better_together(min(rows, key=distance))


def is_better_together(row: Mapping[str, Any]) -> bool:
    """Whether a row of the table speaks for one vmapped step.

    By cycles, or else by the seconds of compilation; where both are equal clients take turns, with
    the bits that each has alone.
    """
    in_turn, together = row["in_turn"], row["together"]
    for what in ("kilocycles", "compile_cpu_seconds"):
        if min(in_turn[what], together[what]) < _TIE * max(in_turn[what], together[what]):
            return together[what] < in_turn[what]
    return False


@functools.cache
def read() -> dict[str, Any]:
    """The table: `rows`, and what they were made for and with."""
    return json.loads(PATH.read_text(encoding="utf-8"))
