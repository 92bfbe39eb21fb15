"""One whole round of the paper's configuration, with fewer samples; and beside torch's loop.

Memory. The compiled program's need is held against a floor for each device: parameters and batch
statistics of its share of the clients, the data set, and the work of one client at a time, which
are the temporaries of the program that trains a single client of the largest architecture
(`client_step`): what its backward pass keeps, its gradients, and whatever XLA copies. Beside them
stands `least_activation_bytes`, the inputs and outputs of that architecture's convolutions and
matrix products and nothing else. The growth of the process is with all devices and the compiler.
"""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from protonorm_jax import models
from protonorm_jax.config import Config
from protonorm_jax.engine.simulate import State
from protonorm_jax.planning import devices
from protonorm_jax.running import driver
from protonorm_jax.types import Dataset, Partition

from . import client_step, processes, timing

TRAIN_SAMPLES, TEST_SAMPLES = 128, 64  # Of each client.
BATCH_SIZE = 32


class _Running(NamedTuple):
    """What was prepared: the simulation, its inputs, and its state in a list of one."""

    simulation: driver.Simulation
    inputs: Any
    state: list[State]


_running: list[_Running] = []  # At most one: what was prepared last.


def measure(
    family: str,
    num_clients: int,
    num_devices: list[int],
    repetitions: int,
    *,
    temporaries_mib: Mapping[str, float],
    beside_torch: bool,
) -> dict[str, Any]:
    """All figures, by number of devices.

    On CPU, each number has a process of its own, which sees that many devices and all cores.
    Torch has another one, and that many threads.

    Args:
      family: of models.
      num_clients: how many clients.
      num_devices: numbers of devices to measure at.
      repetitions: rounds to measure, after one that is not; their median is given.
      temporaries_mib: of the single-client step by architecture, where known.
      beside_torch: whether torch takes its turns.
    """
    figures = {}
    platform = jax.default_backend()
    names = models.family(family)
    least = {name: client_step.work(name).activation_bytes for name in names}
    largest = max(names, key=lambda name: least[name])
    activations = _temporary_bytes(largest, temporaries_mib)
    for count in num_devices:
        with contextlib.ExitStack() as stack:
            call = stack.enter_context(processes.child_on_cpu(platform, one_core=False))
            if platform == "cpu":
                call(devices.prepare_cpu, count)
            row = call(prepare, family, num_clients, count)
            clocks = {"jax": functools.partial(call, time_round)}
            if beside_torch:
                clocks |= _prepare_torch(stack, *call(holders), num_threads=count)
            times = timing.alternate(clocks, repetitions)
            medians = {name: timing.median(taken) for name, taken in times.items()}
            row["seconds"] = {name: median.wall / 1e3 for name, median in medians.items()}
            row["cpu_seconds"] = {name: median.cpu / 1e3 for name, median in medians.items()}
            ours = medians.pop("jax")
            row["torch_over_jax"] = {name: time.wall / ours.wall for name, time in medians.items()}
            row["memory"] = call(memory, activations)
            row["memory"]["least_activation_bytes"] = least[largest]
            figures[str(count)] = row
    return figures


def random_dataset(num_clients: int) -> Dataset:
    """As many random images as all clients need."""
    rng = np.random.default_rng(0)
    count = (TRAIN_SAMPLES + TEST_SAMPLES) * num_clients
    return Dataset(
        rng.integers(0, 256, (count, *client_step.IMAGE_SHAPE), dtype=np.uint8),
        rng.integers(0, client_step.NUM_CLASSES, count, dtype=np.int32),
        num_classes=client_step.NUM_CLASSES,
        name="random",
    )


def configuration(family: str, num_clients: int, num_devices: int) -> Config:
    """The paper's settings, with equally many samples for every client."""
    return Config(
        method="protonorm",
        family=family,
        num_clients=num_clients,
        partition="iid",
        # Half a sample more than wanted: the share is rounded down.
        train_fraction=(TRAIN_SAMPLES + 0.5) / (TRAIN_SAMPLES + TEST_SAMPLES),
        batch_size=BATCH_SIZE,
        last_batch="drop",
        devices=num_devices,
    )


def prepare(family: str, num_clients: int, num_devices: int) -> dict[str, Any]:
    """Compiles a simulation and runs one round; returns its sizes and seconds of compilation.

    Raises:
      ValueError: the clients do not hold the samples that they should.
    """
    peak = processes.peak_bytes()
    cpu_start = time.process_time()
    config = configuration(family, num_clients, num_devices)
    simulation = driver.prepare([config], random_dataset(num_clients))
    compile_cpu_seconds = time.process_time() - cpu_start
    parts = simulation.plan.runs[0].partition
    if set(parts.train_count) != {TRAIN_SAMPLES} or set(parts.test_count) != {TEST_SAMPLES}:
        raise ValueError(
            f"clients must hold {TRAIN_SAMPLES} and {TEST_SAMPLES} samples, got "
            f"{parts.train_count} and {parts.test_count}"
        )
    inputs = simulation.put(simulation.inputs(0))
    _running[:] = [_Running(simulation, inputs, [simulation.init(inputs)])]
    time_round()
    return {
        "train_steps": num_clients * TRAIN_SAMPLES // BATCH_SIZE,
        "compile_seconds": simulation.compile_seconds,
        "compile_cpu_seconds": compile_cpu_seconds,
        "peak_growth_bytes": processes.peak_bytes() - peak,
    }


def time_round() -> timing.Times:
    """The times of one round: training, prototypes, alignment and both evaluations.

    Raises:
      UsageError: the training has diverged.
    """
    simulation, inputs, state = _running[0]

    reports = []

    def advance() -> None:
        state[0], reports[:] = simulation.advance(state[0], inputs, 1)

    times = timing.clock(advance)
    driver.check_finite(simulation.plan.runs[0].config, reports[0])
    return times


def holders() -> tuple[tuple[str, ...], Partition]:
    """The architectures of the prepared clients, and who holds which of the random samples."""
    plan = _running[0].simulation.plan
    return plan.architectures, plan.runs[0].partition


def memory(activation_bytes: int) -> dict[str, float]:
    """What the prepared program needs on each device, beside the floor; in bytes.

    Args:
      activation_bytes: the work of one client at a time.
    """
    simulation, _, state = _running[0]
    # One stack of clients for each architecture, in order of first appearance.
    architectures = simulation.plan.architectures
    names = dict.fromkeys(architectures)
    model_bytes = 0
    for name, clients in zip(names, state[0].clients, strict=True):
        # Leaves are [devices, 1, slots, ...]; some slots may be empty.
        per_client = sum(leaf[0, 0, 0].nbytes for leaf in jax.tree.leaves(clients))
        model_bytes += per_client * architectures.count(name)
    dataset = random_dataset(len(architectures))
    parts = {
        "model_bytes": model_bytes // len(simulation.plan.devices),
        "data_bytes": dataset.images.nbytes + dataset.labels.nbytes,
        "activation_bytes": activation_bytes,
    }
    floor = sum(parts.values())
    needed = simulation.bytes_per_device
    return {"needed_bytes": needed, "floor_bytes": floor, "ratio": needed / floor, **parts}


def _temporary_bytes(architecture: str, known_mib: Mapping[str, float]) -> int:
    """Temporaries of the single-client step; compiled if they are not known yet."""
    if architecture in known_mib:
        return round(known_mib[architecture] * 2**20)
    with processes.child_on_cpu(jax.default_backend(), one_core=False) as call:
        return round(call(client_step.prepare, architecture, 1, 1)["temp_mib"] * 2**20)


def _prepare_torch(
    stack: contextlib.ExitStack,
    architectures: tuple[str, ...],
    partition: Partition,
    num_threads: int,
) -> dict[str, Callable[[], timing.Times]]:
    """Torch's clocks by variant, with the same samples for every client."""
    from . import torch_round

    dataset = random_dataset(len(architectures))
    call = stack.enter_context(processes.child(one_core=False))
    clocks = {}
    for variant in torch_round.ON_DISK:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        call(
            torch_round.prepare,
            variant,
            architectures,
            dataset.images,
            dataset.labels,
            partition.train,
            partition.test,
            num_threads,
            folder,
        )
        clocks[variant] = functools.partial(call, torch_round.time_round, variant)
    return clocks


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    table = Table(title="One round: training, prototypes, alignment, both evaluations")
    for column in ("devices", "seconds", "CPU s", "train steps", "compile s", "CPU s"):
        table.add_column(column, justify="right")
    needs = Table(title="Memory of it, MiB a device")
    for column in ("devices", "needed", "floor", "needed / floor"):
        needs.add_column(column, justify="right")
    for column in ("models", "data", "a client's work", "process"):
        needs.add_column(column, justify="right")
    theirs = Table(title="One round beside torch, as many threads as devices, seconds")
    for column in ("devices", "jax", "torch NCHW, on disk", "torch / jax"):
        theirs.add_column(column, justify="right")
    for column in ("torch channels_last", "torch / jax"):
        theirs.add_column(column, justify="right")
    for count, row in figures.items():
        seconds, memory = row["seconds"], row["memory"]
        table.add_row(
            count,
            f"{seconds['jax']:.2f}",
            f"{row['cpu_seconds']['jax']:.2f}",
            str(row["train_steps"]),
            f"{row['compile_seconds']:.1f}",
            f"{row['compile_cpu_seconds']:.1f}",
        )
        names = ("model_bytes", "data_bytes", "activation_bytes")
        needs.add_row(
            count,
            f"{memory['needed_bytes'] / 2**20:.0f}",
            f"{memory['floor_bytes'] / 2**20:.0f}",
            f"{memory['ratio']:.2f}",
            *(f"{memory[name] / 2**20:.0f}" for name in names),
            f"{row['peak_growth_bytes'] / 2**20:.0f}",
        )
        ratios = row["torch_over_jax"]
        if ratios:
            pairs = [(f"{seconds[name]:.2f}", f"{ratios[name]:.1f}") for name in ratios]
            theirs.add_row(count, f"{seconds['jax']:.2f}", *(c for pair in pairs for c in pair))
    needs.caption = (
        "wanted of needed / floor: <= 1.3; floor: models, data and one client's work at a time\n"
        "process: by how much its peak grew, for all devices, compiling included"
    )
    theirs.caption = "wanted of torch / jax: >= 4 for NCHW on disk, >= 2 for channels_last"
    return [table, needs, theirs] if theirs.rows else [table, needs]
