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
    wanted = names or tuple(methods.METHODS)
    for family, chosen in (
        ("tiny", [name for name in wanted if name not in ALONE]),
        ("cnn", [name for name in wanted if name in ALONE]),
    ):
        with ExitStack() as stack:
            call = harness.child(stack)
            plain = harness.Federation(family, num_clients, num_devices=0, method="local")
            sizes = {"local": call(harness.prepare, plain)} if chosen else {}
            stack.callback(call, harness.forget)
            for name in chosen:
                own = plain._replace(method=name)
                sizes[name] = sizes.get(name) or call(harness.prepare, own)
                clocks = {
                    "local": functools.partial(call, harness.time_round, plain),
                    "method": functools.partial(call, harness.time_round, own),
                }
                times = timing.medians(clocks, repetitions)
                figures[name] = {
                    "family": family,
                    "milliseconds": {key: time.wall for key, time in times.items()},
                    "over_local": times["method"].wall / times["local"].wall,
                    "compile_seconds": sizes[name]["compile_seconds"],
                    "needed_bytes": sizes[name]["needed_bytes"],
                }
                if own != plain:
                    call(harness.forget, own)
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
