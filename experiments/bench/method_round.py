"""The time that a round takes with each method, as a share of local training's on the same clients.

On digits' shapes, every client with as many samples. FedAvg needs one architecture for all, and has
local training on that one beside it.
"""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.table import Table

from protonorm_jax import methods

from . import harness, timing
from .tables import table, values

ALONE = ("fedavg",)
"""Methods that need one architecture for all clients."""


def measure(
    names: Sequence[str] = (), num_clients: int = 20, repetitions: int = 9
) -> dict[str, Any]:
    """The times of a round, by turns with local training.

    Args:
      names: of methods; none for all of them.
      num_clients: of each run.
      repetitions: of which medians are given.
    """
    figures = {}
    for name in names or tuple(methods.METHODS):
        family = "cnn" if name in ALONE else "tiny"
        plain = harness.Federation(family, num_clients, num_devices=0, method="local")
        with ExitStack() as stack:
            call = harness.child(stack)
            stack.callback(call, harness.forget)
            federations = {"local": plain, "method": plain._replace(method=name)}
            sizes = {key: call(harness.prepare, one) for key, one in federations.items()}
            clocks = {
                key: functools.partial(call, harness.time_round, one)
                for key, one in federations.items()
            }
            times = timing.medians(clocks, repetitions)
        figures[name] = {
            "family": family,
            "milliseconds": {key: time.wall for key, time in times.items()},
            "over_local": times["method"].wall / times["local"].wall,
            "compile_seconds": sizes["method"]["compile_seconds"],
            "needed_bytes": sizes["method"]["needed_bytes"],
        }
    return figures


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    names = "family milliseconds.method milliseconds.local over_local compile_seconds needed_bytes"
    return [
        table(
            "A round of each method, beside local training of the same clients by turns",
            "method | family | ms:.3g | local ms:.3g | method / local:.2f | compile s:.1f | "
            "MiB a device:.1fM",
            [(name, *values(row, names)) for name, row in figures.items()],
        )
    ]
