"""A round of few participants, beside a lean program of the same steps and no engine.

Local training, no evaluation, on one device. The lean program is a `lax.map` over the clients that
train, of a `lax.scan` over their batches, which take their samples as they are stored: it draws
nobody, orders and counts nothing, and sends nothing.
"""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.table import Table

from . import harness, timing
from .tables import table, values

CASES = (("mlp", (20, 200, 1000)), ("cnn", (20, 200)), ("resnet8", (20,)))
"""Models, and the numbers of clients."""
ALLOWED = 0.2
"""Milliseconds that a round may take beside its participants' share."""


def measure(
    cases: Sequence[tuple[str, Sequence[int]]] = CASES,
    participations: Sequence[float] = (1.0, 0.05),
    repetitions: int = 7,
) -> dict[str, Any]:
    """Milliseconds of a round by model, number of clients and participation.

    Args:
      cases: see `CASES`.
      participations: of which the first is the one that others are held against; 1 to be of use.
      repetitions: of which medians are given.
    """
    rows = []
    for name, counts in cases:
        for count in counts:
            images = "cifar" if name == "resnet8" else "digits"
            federations = [
                harness.Federation(name, count, images=images, method="local", participation=part)
                for part in participations
            ]
            times = _times(federations, repetitions)
            full = times["engine", federations[0]]
            for federation in federations:
                engine, lean = times["engine", federation], times["lean", federation]
                share = federation.participants / federations[0].participants
                rows.append(
                    {
                        "model": name,
                        "num_clients": count,
                        "participants": federation.participants,
                        "milliseconds": {"engine": engine, "lean": lean},
                        "over_lean": engine / lean,
                        "share_of_full": share * full,
                        "over_wanted": engine / (1.1 * share * full + ALLOWED),
                    }
                )
    return {"rows": rows}


def _times(
    federations: Sequence[harness.Federation], repetitions: int
) -> dict[tuple[str, harness.Federation], float]:
    """Milliseconds of a round of each, of the engine and of the lean program, taken by turns."""
    with ExitStack() as stack:
        call = harness.child(stack, num_devices=1)
        stack.callback(call, harness.forget)
        clocks = {}
        for number, federation in enumerate(federations):
            call(harness.prepare, federation)
            call(harness.prepare_lean, federation)
            for kind, clock in (("engine", harness.time_rounds), ("lean", harness.time_lean)):
                clocks[f"{kind} {number}"] = functools.partial(call, clock, federation)
        medians = timing.medians(clocks, repetitions)
    return {
        (kind, federation): medians[f"{kind} {number}"].wall
        for number, federation in enumerate(federations)
        for kind in ("engine", "lean")
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    names = "model num_clients participants milliseconds.engine milliseconds.lean over_lean "
    names += "share_of_full over_wanted"
    return [
        table(
            "A round of few participants beside a lean program of the same steps, local training",
            "model | clients | train | ms:.3g | lean ms:.3g | engine / lean:.2f | "
            "share of a full round, ms:.3g | over wanted:.2f",
            [values(row, names) for row in figures["rows"]],
            f"wanted: at most 1.1 times their share of a full round and {ALLOWED} ms",
        )
    ]
