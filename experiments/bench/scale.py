"""Many runs, many clients, several devices: what each more of them costs, in time and memory.

Random images of the digits' shape, dealt equally. Seconds are medians of rounds that take turns,
each with both evaluations; on CPU every part below has processes of its own.

    runs      R runs, of different seeds, in one program on all devices, against R times one run
    clients   one model and more and more clients, on one device
    weak      twice the clients on twice the devices
    memory    what `plan.Memory` expects before anything is compiled, against what XLA's program
              needs, and by how much the process grew while it ran
"""

import ctypes
import functools
import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from protonorm_jax.config import Config
from protonorm_jax.engine.simulate import State
from protonorm_jax.planning import devices
from protonorm_jax.running import driver
from protonorm_jax.types import Dataset

from . import processes, timing

NUM_CLASSES = 10
BATCH_SIZE = 32
SHAPES = {"digits": (8, 8, 1), "cifar": (32, 32, 3)}
MIB = 2**20
_M_MMAP_THRESHOLD = -3  # Of mallopt.


class Federation(NamedTuple):
    """What one program trains.

    Attributes:
      family: of models.
      num_clients: of each run.
      num_runs: in the program, with seeds from 0 on.
      num_devices: to use; 0 for all.
      train_samples: of each client.
      test_samples: of each client.
      images: a key of `SHAPES`.
    """

    family: str
    num_clients: int
    num_runs: int = 1
    num_devices: int = 1
    train_samples: int = 64
    test_samples: int = 21
    images: str = "digits"

    def __str__(self) -> str:
        runs = "1 run" if self.num_runs == 1 else f"{self.num_runs} runs"
        return f"{self.family}, {self.num_clients} clients, {runs}"


class _Running(NamedTuple):
    """What was prepared: the simulation, its inputs, and its states in a list of one."""

    simulation: driver.Simulation
    inputs: Any
    states: list[State]


_running: dict[Federation, _Running] = {}


def measure(
    *,
    family: str,
    num_clients: int,
    run_counts: Sequence[int],
    model: str,
    client_counts: Sequence[int],
    device_counts: Sequence[int],
    memory_of: Sequence[Federation],
    repetitions: int,
) -> dict[str, Any]:
    """The figures of all four parts, see the module.

    Args:
      family: of models, where runs and devices are counted.
      num_clients: of each run there; of each device, half as many.
      run_counts: numbers of runs, 1 first.
      model: the one where clients are counted.
      client_counts: numbers of clients.
      device_counts: numbers of devices, 1 first; those that an accelerator does not have are
        left out.
      memory_of: what to hold against its estimate.
      repetitions: rounds to measure, after one that is not.
    """
    platform = jax.default_backend()
    on_cpu = platform == "cpu"
    num_devices = max(device_counts, default=1) if on_cpu else jax.local_device_count()
    by_runs = [Federation(family, num_clients, count, num_devices) for count in run_counts]
    by_clients = [
        Federation(model, count, train_samples=128, test_samples=32) for count in client_counts
    ]
    return {
        "runs": _runs(platform, by_runs, repetitions),
        "clients": _clients(platform, by_clients, repetitions),
        "weak": _weak(
            platform,
            family,
            num_clients // 2,
            [count for count in device_counts if on_cpu or count <= num_devices],
            repetitions,
        ),
        "memory": [_memory(platform, one) for one in memory_of],
    }


def _runs(
    platform: str, federations: Sequence[Federation], repetitions: int
) -> list[dict[str, Any]]:
    """For each number of runs, the cost of a run relative to one that is alone."""
    with processes.child_on_cpu(platform, one_core=False) as call:
        rows = _alternate(call, federations, repetitions)
    alone = rows[0]["seconds"]
    for row in rows:
        row["cost_of_a_run"] = row["seconds"] / (row["num_runs"] * alone)
    return rows


def _clients(
    platform: str, federations: Sequence[Federation], repetitions: int
) -> list[dict[str, Any]]:
    """For each number of clients, the time of a client's step and the memory of a client."""
    with processes.child_on_cpu(platform, one_core=False) as call:
        rows = _alternate(call, federations, repetitions)
    for row, federation in zip(rows, federations, strict=True):
        steps = row["num_clients"] * (federation.train_samples // BATCH_SIZE)
        own = row["needed_bytes"] - row["data_bytes"]
        row["milliseconds_a_step"] = 1e3 * row["seconds"] / steps
        row["bytes_a_client"] = own / row["num_clients"]
    return rows


def _alternate(
    call: processes.Call, federations: Sequence[Federation], repetitions: int
) -> list[dict[str, Any]]:
    """Prepares all in one process, where their rounds then take turns."""
    if jax.default_backend() == "cpu":
        call(devices.prepare_cpu, max(federation.num_devices for federation in federations))
    rows = [call(prepare, federation) for federation in federations]
    clocks = {str(one): functools.partial(call, time_round, one) for one in federations}
    times = timing.alternate(clocks, repetitions)
    call(forget)
    for row, taken in zip(rows, times.values(), strict=True):
        row["seconds"] = timing.median(taken).wall / 1e3
        row["cpu_seconds"] = timing.median(taken).cpu / 1e3
    return rows


def _weak(
    platform: str, family: str, clients_each: int, counts: Sequence[int], repetitions: int
) -> list[dict[str, Any]]:
    """For each number of devices, with as many clients each, the efficiency against one.

    One device with all cores runs its larger operations on several. So that the cores grow with
    the devices, one is measured on one core, too.
    """
    cases = [(f"{count}", count, False) for count in counts]
    if platform == "cpu":
        cases = [("1, on one core", 1, True), *cases]
    rows, clocks = [], {}
    with ExitStack() as stack:
        for name, count, one_core in cases:
            call = stack.enter_context(processes.child_on_cpu(platform, one_core=one_core))
            if platform == "cpu":
                call(devices.prepare_cpu, count)
            federation = Federation(family, clients_each * count, 1, count)
            rows.append({"devices": name, **call(prepare, federation)})
            clocks[name] = functools.partial(call, time_round, federation)
            stack.callback(call, forget)
        times = timing.alternate(clocks, repetitions)
    for row, taken in zip(rows, times.values(), strict=True):
        row["seconds"] = timing.median(taken).wall / 1e3
        row["cpu_seconds"] = timing.median(taken).cpu / 1e3
        row["efficiency"] = rows[0]["seconds"] / row["seconds"]
    return rows


def _memory(platform: str, federation: Federation) -> dict[str, Any]:
    """The estimate, the need and, on CPU, the growth, in a process of its own."""
    with processes.child_on_cpu(platform, one_core=False) as call:
        row = call(grow, federation)
    row["estimate_over_needed"] = row["estimate_bytes"] / row["needed_bytes"]
    if row["measured_bytes"] is not None:
        row["estimate_over_measured"] = row["estimate_bytes"] / row["measured_bytes"]
    return row


def random_dataset(federation: Federation) -> Dataset:
    """As many random images as all clients of a run need."""
    rng = np.random.default_rng(0)
    count = (federation.train_samples + federation.test_samples) * federation.num_clients
    return Dataset(
        rng.integers(0, 256, (count, *SHAPES[federation.images]), dtype=np.uint8),
        rng.integers(0, NUM_CLASSES, count, dtype=np.int32),
        num_classes=NUM_CLASSES,
        name="random",
    )


def compiled(federation: Federation) -> driver.Simulation:
    """Plans and compiles it.

    Raises:
      ValueError: the clients do not hold the samples that they should.
    """
    samples = federation.train_samples + federation.test_samples
    config = Config(
        family=federation.family,
        num_clients=federation.num_clients,
        partition="iid",
        # Half a sample more than wanted: the share is rounded down.
        train_fraction=(federation.train_samples + 0.5) / samples,
        batch_size=BATCH_SIZE,
        devices=federation.num_devices,
    )
    simulation = driver.prepare(
        [config.replace(seed=seed) for seed in range(federation.num_runs)],
        random_dataset(federation),
        runs_per_program=federation.num_runs,
    )
    for run in simulation.plan.runs:
        counts = set(run.partition.train_count), set(run.partition.test_count)
        if counts != ({federation.train_samples}, {federation.test_samples}):
            raise ValueError(f"clients must hold as many samples as asked for, got {counts}")
    return simulation


def prepare(federation: Federation) -> dict[str, Any]:
    """Compiles a simulation and runs one round; returns its sizes and seconds of compilation."""
    simulation = compiled(federation)
    inputs = simulation.put(simulation.inputs(0))
    _running[federation] = _Running(simulation, inputs, [simulation.init(inputs)])
    time_round(federation)
    return _sizes(simulation)


def time_round(federation: Federation) -> timing.Times:
    """One round of all runs of a prepared simulation, with evaluation.

    Raises:
      UsageError: the training has diverged.
    """
    simulation, inputs, states = _running[federation]
    reports: list[dict[str, Any]] = []

    def advance() -> None:
        states[0], reports[:] = simulation.advance(states[0], inputs, 1)

    times = timing.clock(advance)
    for run, report in zip(simulation.plan.runs, reports, strict=True):
        driver.check_finite(run.config, report)
    return times


def forget() -> None:
    """Frees all that was prepared in this process."""
    _running.clear()


def grow(federation: Federation) -> dict[str, Any]:
    """Compiles a simulation, then sees by how much the process grows over two rounds.

    The same rounds come before, and leave nothing but the heaps of threads and the program's code,
    which takes memory when it first runs.

    Returns:
      Its sizes, and `measured_bytes`: the growth of the most resident memory from before the
      inputs are on the devices, and the data set, which is there already since it is needed to
      compile. None where the system does not say, or the memory is not the process's.
    """
    _give_back_what_is_freed()
    simulation = compiled(federation)
    _run_twice(simulation)
    sizes = _sizes(simulation) | {"program": str(federation)}
    before = _reset_peak() if jax.default_backend() == "cpu" else None
    _run_twice(simulation)
    grown = None if before is None else processes.peak_bytes() - before
    return sizes | {"measured_bytes": None if grown is None else grown + sizes["data_bytes"]}


def _run_twice(simulation: driver.Simulation) -> None:
    """The first two rounds, from inputs that are not on the devices yet."""
    inputs = simulation.put(simulation.inputs(0))
    states = simulation.init(inputs)
    for _ in range(2):
        states, _ = simulation.advance(states, inputs, 1)


def _sizes(simulation: driver.Simulation) -> dict[str, Any]:
    """Of the program, on each device."""
    plan = simulation.plan
    return {
        "num_clients": len(plan.architectures),
        "num_runs": plan.runs_per_program,
        "num_devices": len(plan.devices),
        "runs_each": plan.spread.runs_each,
        "compile_seconds": simulation.compile_seconds,
        "data_bytes": plan.dataset.images.nbytes + plan.dataset.labels.nbytes,
        "needed_bytes": simulation.bytes_per_device,
        "estimate_bytes": plan.memory.total(),
        "estimate_parts": plan.memory._asdict(),
    }


def _give_back_what_is_freed() -> None:
    """Has malloc, if it is glibc's, map each large array by itself.

    It would keep more and more of them for later, which is no need of the program's.
    """
    set_option: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, 2**16)


def _reset_peak() -> int | None:
    """Lets `processes.peak_bytes` start again from what is held now, and returns that.

    None where the system cannot.
    """
    gc.collect()
    # What the compiler has freed would be used again, and hide the growth.
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return processes.peak_bytes()


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    return [
        _runs_table(figures["runs"]),
        _clients_table(figures["clients"]),
        _weak_table(figures["weak"]),
        _memory_table(figures["memory"]),
    ]


def _runs_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title=f"Runs in one program: {rows[0]['num_clients']} clients each, "
        f"{rows[0]['num_devices']} devices at most",
        caption="a run: seconds over those of as many programs with one run on the same devices",
    )
    for column in ("runs", "on a device", "seconds a round", "a run", "compile s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["num_runs"]),
            str(row["runs_each"]),
            f"{row['seconds']:.3f}",
            f"{row['cost_of_a_run']:.2f}",
            f"{row['compile_seconds']:.1f}",
        )
    return table


def _clients_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="Clients of one model on one device",
        caption="a step: the round, with evaluation, over all clients' steps\n"
        "a client: all memory but the data set, over clients\n"
        f"wanted from {rows[0]['num_clients']} to {rows[-1]['num_clients']} clients: both "
        "constant within 20 %",
    )
    for column in ("clients", "compile s", "seconds a round", "ms a step", "KiB a client"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["num_clients"]),
            f"{row['compile_seconds']:.1f}",
            f"{row['seconds']:.3f}",
            f"{row['milliseconds_a_step']:.2f}",
            f"{row['bytes_a_client'] / 1024:.0f}",
        )
    return table


def _weak_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="As many clients on every device",
        caption="efficiency: seconds of the first row over seconds\n"
        "1, on one core: as many cores as devices; other rows have all cores of the machine",
    )
    for column in ("devices", "clients", "seconds a round", "CPU s", "efficiency"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["devices"],
            str(row["num_clients"]),
            f"{row['seconds']:.3f}",
            f"{row['cpu_seconds']:.3f}",
            f"{row['efficiency']:.2f}",
        )
    return table


def _memory_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="Memory expected before compiling, MiB on one device",
        caption="XLA: arguments and temporaries of the program; process: the data set, and the\n"
        "growth of the process over two rounds, inputs and states included; the compiler, the\n"
        "program's code and the heaps of threads are there before\n"
        "wanted: estimate over both within 25 % of 1",
    )
    table.add_column("program")
    parts = ("samples", "states", "uploads", "work")
    for column in ("estimate", *parts, "XLA", "ratio", "process", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        measured = row["measured_bytes"]
        table.add_row(
            row["program"],
            f"{row['estimate_bytes'] / MIB:.1f}",
            *(f"{row['estimate_parts'][part] / MIB:.1f}" for part in parts),
            f"{row['needed_bytes'] / MIB:.1f}",
            f"{row['estimate_over_needed']:.2f}",
            "" if measured is None else f"{measured / MIB:.1f}",
            "" if measured is None else f"{row['estimate_over_measured']:.2f}",
        )
    return table
