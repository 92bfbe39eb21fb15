"""Whose clients go together in one vmapped step on a TPU, by a table of what its compiler expects.

`experiments/bench/tpu_forms.py` makes it.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax.engine import lockstep
from protonorm_jax.models import heads
from protonorm_jax.planning.layout import Work

PATH = Path(__file__).with_suffix(".json")
_TIE = 0.8  # Estimates of which the smaller is at least this part of the other say nothing.


class Figures(NamedTuple):
    """What a form costs.

    Attributes:
      kilocycles: that the training takes.
      compile_cpu_seconds: that its program takes to compile.
    """

    kilocycles: float = 0.0
    compile_cpu_seconds: float = 0.0

    def plus(self, other: "Figures") -> "Figures":
        """The sum of each."""
        return Figures(*(one + more for one, more in zip(self, other, strict=True)))


def go_together(name: str, image_shape: Sequence[int]) -> bool:
    """Whether clients of a model that have equally many steps are better vmapped.

    Args:
      name: of the model; false for one that is not in the table.
      image_shape: of its images; of several in the table that with the nearest number of pixels
        counts.
    """
    row = _row(name, image_shape)
    return row is not None and is_better(*forms(row))


def better_together(
    work: Sequence[Work], widths: Sequence[tuple[int, ...]], image_shape: Sequence[int]
) -> set[str]:
    """Of the architectures whose clients are vmapped, those for which that is better.

    A batch goes on until its longest client is done, if it does not narrow, and each of its widths
    has to be compiled. So each architecture is judged by the steps that its clients have, and what
    is left by the whole round: it has to gain by it, or only the compilation takes longer. Models
    that are not in the table are larger than those that are, and of a round with one of them the
    others are a small part: there nobody goes together.

    Args:
      work: of each architecture.
      widths: of each, how its batches narrow; none where clients take turns.
      image_shape: of all images.
    """
    of_turns, of_all, chosen = Figures(), Figures(), set()
    for one, narrowing in zip(work, widths, strict=True):
        row = _row(one.architecture, image_shape)
        if row is None:
            return set()
        in_turn, together = _scaled(row, one, narrowing)
        of_turns = of_turns.plus(in_turn)
        if narrowing and is_better(in_turn, together):
            chosen.add(one.architecture)
            in_turn = together
        of_all = of_all.plus(in_turn)
    return chosen if is_better(of_turns, of_all) else set()


def is_better(in_turn: Figures, together: Figures) -> bool:
    """Whether figures speak for vmapped clients.

    By cycles, or else by the seconds of compilation; where both are equal clients take turns, with
    the bits that each has alone.
    """
    for one, other in zip(in_turn, together, strict=True):
        if min(one, other) < _TIE * max(one, other):
            return other < one
    return False


def _scaled(row: Mapping[str, Any], work: Work, widths: Sequence[int]) -> tuple[Figures, Figures]:
    """What both forms cost for these steps, in turn and together.

    In a step each vmapped client costs as much as any other, beside what a step costs however few
    they are.
    """
    (turns, turns_compiled), (all_at_once, compiled) = forms(row)
    count = read()["num_clients"]
    one = turns / count
    another = (all_at_once - one) / (count - 1)
    rows = work.steps.reshape(-1, work.steps.shape[-1])
    longest, done = rows.max(axis=1).sum(), lockstep.work(rows, widths)
    return (
        Figures(rows.sum() * one, turns_compiled),
        Figures(longest * (one - another) + done * another, max(len(widths), 1) * compiled),
    )


def _row(name: str, image_shape: Sequence[int]) -> dict[str, Any] | None:
    """The row of a model; of several the one with the nearest number of pixels."""
    net, _ = heads.split(name)

    def distance(row: Mapping[str, Any]) -> float:
        return abs(math.log(math.prod(row["shape"][:2]) / math.prod(image_shape[:2])))

    return min((row for row in read()["rows"] if row["net"] == net), key=distance, default=None)


def forms(row: Mapping[str, Any]) -> tuple[Figures, Figures]:
    """What a row says of both forms, in turn and together."""
    return Figures(**row["in_turn"]), Figures(**row["together"])


@functools.cache
def read() -> dict[str, Any]:
    """The table: `rows`, and what they were made for and with."""
    return json.loads(PATH.read_text(encoding="utf-8"))
