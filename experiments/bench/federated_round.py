"""One whole round of the paper's configuration, with fewer samples; and beside torch's loop.

Memory. The compiled program's need is held against a floor for each device: parameters and batch
statistics of its share of the clients, the data set, and the work of one client at a time, which
are the temporaries of the program that trains a single client of the largest architecture
(`client_step`): what its backward pass keeps, its gradients, and whatever XLA copies. Beside them
stands `least_activation_bytes`, the inputs and outputs of that architecture's convolutions and
matrix products and nothing else. The growth of the process is with all devices and the compiler.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.table import Table

from . import client_step, harness, processes, timing
from .tables import table, values


def measure(
    family: str = "ht0",
    num_clients: int = 20,
    repetitions: int = 5,
    *,
    num_devices: Sequence[int],
    beside_torch: bool,
) -> dict[str, Any]:
    """All figures, by number of devices, with medians of so many rounds after a first one.

    On CPU, each number has a process of its own, which sees that many devices and all cores.
    Torch has another one, and that many threads.
    """
    figures = {}
    for count in num_devices:
        federation = harness.paper(family, num_clients, count)
        least = {name: client_step.work(name).activation_bytes for name in federation.architectures}
        largest = max(least, key=lambda name: least[name])
        activation_bytes = client_step.temporary_bytes(largest)
        with ExitStack() as stack:
            call = harness.child(stack, num_devices=count)
            row = figures[str(count)] = call(harness.prepare, federation)
            stack.callback(call, harness.forget)
            clocks = {"jax": partial(call, harness.time_round, federation)}
            if beside_torch:
                clocks |= _prepare_torch(stack, federation)
            times = timing.medians(clocks, repetitions)
        seconds = {name: time.wall / 1e3 for name, time in times.items()}
        row["seconds"] = seconds
        row["cpu_seconds"] = {name: time.cpu / 1e3 for name, time in times.items()}
        row["torch_over_jax"] = {n: seconds[n] / seconds["jax"] for n in seconds if n != "jax"}
        row["train_steps"] = federation.train_steps
        parts = {name: row[name] for name in ("model_bytes", "data_bytes")}
        parts["activation_bytes"] = activation_bytes
        floor, needed = sum(parts.values()), row["needed_bytes"]
        row["memory"] = {"needed_bytes": needed, "floor_bytes": floor, "ratio": needed / floor}
        row["memory"] |= {**parts, "least_activation_bytes": least[largest]}
    return figures


def _prepare_torch(
    stack: ExitStack, federation: harness.Federation
) -> dict[str, Callable[[], timing.Times]]:
    """Torch's clocks by layout, with as many of the same samples for every client."""
    from . import torch_side

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    call = stack.enter_context(processes.child(one_core=False))
    samples = harness.random_dataset(federation)[:2]
    sizes = federation.train_samples, federation.num_devices
    call(torch_side.prepare_round, federation.architectures, *samples, *sizes, folder)
    return {name: partial(call, torch_side.time_round, name) for name in torch_side.LAYOUTS}


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    took = "seconds.jax cpu_seconds.jax train_steps compile_seconds compile_cpu_seconds"
    needs = (
        "memory.needed_bytes memory.floor_bytes memory.ratio memory.model_bytes "
        "memory.data_bytes memory.activation_bytes peak_growth_bytes"
    )
    results = [
        table(
            "One round: training, prototypes, alignment, both evaluations",
            "devices | seconds:.2f | CPU s:.2f | train steps | compile s:.1f | CPU s:.1f",
            ((count, *values(row, took)) for count, row in figures.items()),
        ),
        table(
            "Memory of it, MiB a device",
            "devices | needed:.0fM | floor:.0fM | needed / floor:.2f | models:.0fM | data:.0fM | "
            "a client's work:.0fM | process:.0fM",
            ((count, *values(row, needs)) for count, row in figures.items()),
            "wanted of needed / floor: <= 1.3; floor: models, data and one client's work at a\n"
            "time; process: by how much its peak grew, for all devices, compiling included",
        ),
    ]
    theirs = "seconds.NCHW torch_over_jax.NCHW seconds.channels_last torch_over_jax.channels_last"
    rows = [
        (count, *values(row, f"seconds.jax {theirs}"))
        for count, row in figures.items()
        if row["torch_over_jax"]
    ]
    if rows:
        title = "One round beside torch, as many threads as devices, seconds"
        columns = "torch NCHW, on disk:.2f | torch / jax:.1f | torch channels_last:.2f"
        columns = f"devices | jax:.2f | {columns} | torch / jax:.1f"
        caption = "wanted of torch / jax: >= 4 for NCHW on disk, >= 2 for channels_last"
        results.append(table(title, columns, rows, caption))
    return results
