"""Many runs, many clients, several devices: what each more of them costs, in time and memory.

Random images of the digits' shape, dealt equally. Seconds are medians of rounds that take turns,
each with both evaluations; on CPU every program has a process of its own.

    runs      R runs, of different seeds, in one program on all devices, against R times one run
    clients   one model and more and more clients, on one device
    weak      twice the clients on twice the devices
    memory    what `plan.Memory` expects before anything is compiled, against what XLA's program
              needs, and by how much the process grew while it ran
"""

import ctypes
import functools
import gc
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from . import harness, processes, timing
from .harness import Federation
from .tables import table, values

MEMORY_OF = (
    Federation("tiny", 20),
    Federation("tiny", 20, num_runs=4),
    Federation("cnn", 500, train_samples=32, test_samples=10),
    Federation("resnet8,mobilenet_v2", 4, train_samples=32, test_samples=10, images="cifar"),
)
_M_MMAP_THRESHOLD = -3  # Of mallopt.

Rows = list[dict[str, Any]]


def measure(
    *,
    family: str = "tiny",
    num_clients: int = 20,
    run_counts: Sequence[int] = (1, 2, 4, 8),
    model: str = "cnn",
    client_counts: Sequence[int] = (20, 100, 500),
    device_counts: Sequence[int] = (1, 2),
    memory_of: Sequence[Federation] = MEMORY_OF,
    repetitions: int = 7,
) -> dict[str, Any]:
    """The figures of all four parts, see the module.

    Runs and devices are counted with clients of `family`, `num_clients` in a run and half as many
    on a device; clients with those of `model`. Numbers of runs and of devices start with 1; devices
    that an accelerator does not have are left out.
    """
    on_cpu = jax.default_backend() == "cpu"
    num_devices = max(device_counts, default=1) if on_cpu else jax.local_device_count()
    by_runs = [Federation(family, num_clients, count, num_devices) for count in run_counts]
    by_clients = [
        Federation(model, count, train_samples=128, test_samples=32) for count in client_counts
    ]
    by_devices = [
        Federation(family, num_clients // 2 * count, 1, count)
        for count in device_counts
        if on_cpu or count <= num_devices
    ]
    runs, clients = _measured(by_runs, repetitions), _measured(by_clients, repetitions)
    for row in runs:
        row["cost_of_a_run"] = row["seconds"] / (row["num_runs"] * runs[0]["seconds"])
    for row, federation in zip(clients, by_clients, strict=True):
        own = row["needed_bytes"] - row["data_bytes"]
        row["milliseconds_a_step"] = 1e3 * row["seconds"] / federation.train_steps
        row["bytes_a_client"] = own / row["num_clients"]
    names = [str(federation.num_devices) for federation in by_devices]
    if on_cpu:
        # One device with all cores runs its larger operations on several. So that the cores grow
        # with the devices, one is measured on one core, too.
        by_devices.insert(0, Federation(family, num_clients // 2))
        names.insert(0, "1, on one core")
    weak = _measured(by_devices, repetitions, first_on_one_core=on_cpu)
    for name, row in zip(names, weak, strict=True):
        row |= {"devices": name, "efficiency": weak[0]["seconds"] / row["seconds"]}
    memory = [_memory(federation) for federation in memory_of]
    return {"runs": runs, "clients": clients, "weak": weak, "memory": memory}


def _measured(
    federations: Sequence[Federation], repetitions: int, *, first_on_one_core: bool = False
) -> Rows:
    """The sizes of each, which has a process of its own on CPU, and its times, taken by turns."""
    rows, clocks = [], {}
    with ExitStack() as stack:
        for number, federation in enumerate(federations):
            one_core = first_on_one_core and number == 0
            call = harness.child(stack, one_core=one_core, num_devices=federation.num_devices)
            stack.callback(call, harness.forget)
            rows.append(call(harness.prepare, federation))
            clocks[str(number)] = functools.partial(call, harness.time_round, federation)
        medians = timing.medians(clocks, repetitions)
    for row, median in zip(rows, medians.values(), strict=True):
        row |= {"seconds": median.wall / 1e3, "cpu_seconds": median.cpu / 1e3}
    return rows


def _memory(federation: Federation) -> dict[str, Any]:
    """The estimate, the need and, on CPU, the growth, in a process of its own."""
    with ExitStack() as stack:
        row = harness.child(stack)(grow, federation)
    estimate, measured = row["estimate_bytes"], row["measured_bytes"]
    row["estimate_over_needed"] = estimate / row["needed_bytes"]
    row["estimate_over_measured"] = None if measured is None else estimate / measured
    return row


def grow(federation: Federation) -> dict[str, Any]:
    """Compiles a simulation, then sees by how much the process grows over two rounds.

    The same rounds come before, and leave nothing but the heaps of threads and the program's code,
    which takes memory when it first runs.

    Returns:
      Its sizes, and `measured_bytes`: the growth of the most resident memory from before the
      inputs are on the devices, and the data set, which is there already since it is needed to
      compile. None where the system does not say, or the memory is not the process's.
    """
    # Each large array is mapped by itself: more and more of them would be kept for later, which is
    # no need of the program's.
    _ask_malloc("mallopt", _M_MMAP_THRESHOLD, 2**16)
    simulation = harness.compiled(federation)
    _run_twice(simulation)
    sizes = harness.sizes(simulation) | {"program": str(federation), "measured_bytes": None}
    before = _reset_peak() if jax.default_backend() == "cpu" else None
    _run_twice(simulation)
    if before is not None:
        sizes["measured_bytes"] = processes.peak_bytes() - before + sizes["data_bytes"]
    return sizes


def _run_twice(simulation: Any) -> None:
    """The first two rounds, from inputs that are not on the devices yet."""
    running = harness.Running(simulation)
    for _ in range(2):
        running.advance()


def _reset_peak() -> int | None:
    """Lets `processes.peak_bytes` start again from what is held now, and returns that.

    None where the system cannot.
    """
    gc.collect()
    # What the compiler has freed would be used again, and hide the growth.
    _ask_malloc("malloc_trim", 0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return processes.peak_bytes()


def _ask_malloc(function: str, *numbers: int) -> None:
    """Calls a function of glibc's malloc, where that is the one in use."""
    found = getattr(ctypes.CDLL(None), function, None)
    if found is not None:
        found(*numbers)


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    runs, clients = figures["runs"], figures["clients"]
    fewest, most = clients[0]["num_clients"], clients[-1]["num_clients"]
    parts = "estimate_parts.samples estimate_parts.states estimate_parts.uploads "
    parts += "estimate_parts.work estimate_parts.code"

    def rows(part: str, names: str) -> list[list[Any]]:
        return [values(row, names) for row in figures[part]]

    return [
        table(
            f"Runs in one program: {runs[0]['num_clients']} clients each, "
            f"{runs[0]['num_devices']} devices at most",
            "runs | on a device | seconds a round:.3f | a run:.2f | compile s:.1f",
            rows("runs", "num_runs runs_each seconds cost_of_a_run compile_seconds"),
            "a run: seconds over those of as many programs with one run on the same devices",
        ),
        table(
            "Clients of one model on one device",
            "clients | compile s:.1f | seconds a round:.3f | ms a step:.2f | KiB a client:.0fK",
            rows(
                "clients",
                "num_clients compile_seconds seconds milliseconds_a_step bytes_a_client",
            ),
            "a step: the round, with evaluation, over all clients' steps\n"
            "a client: all memory but the data set, over clients\n"
            f"wanted from {fewest} to {most} clients: both constant within 20 %",
        ),
        table(
            "As many clients on every device",
            "devices | clients | seconds a round:.3f | CPU s:.3f | efficiency:.2f",
            rows("weak", "devices num_clients seconds cpu_seconds efficiency"),
            "efficiency: seconds of the first row over seconds\n"
            "1, on one core: as many cores as devices; other rows have all cores of the machine",
        ),
        table(
            "Memory expected before compiling, MiB on one device",
            "program | estimate:.1fM | samples:.1fM | states:.1fM | uploads:.1fM | work:.1fM | "
            "code:.1fM | XLA:.1fM | ratio:.2f | process:.1fM | ratio:.2f",
            rows(
                "memory",
                f"program estimate_bytes {parts} needed_bytes estimate_over_needed "
                "measured_bytes estimate_over_measured",
            ),
            "XLA: all that the compiled program needs of a device; process: the data set, and the\n"
            "growth of the process over two rounds, inputs and states included; the compiler, the\n"
            "program's code and the heaps of threads are there before\n"
            "wanted: estimate over both within 25 % of 1",
        ),
    ]
