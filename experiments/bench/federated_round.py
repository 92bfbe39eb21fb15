"""One whole round of the paper's configuration, with fewer samples: time, compilation, memory."""

import time
from typing import Any

import jax
import numpy as np
from rich.table import Table

from protonorm_jax import devices, driver, keys
from protonorm_jax.config import Config
from protonorm_jax.types import Dataset

from . import processes, timing

SAMPLES_PER_CLIENT = 171  # 128 to train on, 43 to test on.


def measure(
    family: str, num_clients: int, num_devices: list[int], repetitions: int
) -> dict[str, Any]:
    """All figures, by number of devices.

    On CPU, each number has a process of its own, which sees that many devices and all cores.

    Args:
      family: of models.
      num_clients: how many clients.
      num_devices: numbers of devices to measure at.
      repetitions: rounds to measure, after one that is not; their median is given.
    """
    figures = {}
    platform = jax.default_backend()
    for count in num_devices:
        with processes.child_on_cpu(platform, one_core=False) as call:
            if platform == "cpu":
                call(devices.prepare_cpu, count)
            figures[str(count)] = call(_measure, family, num_clients, count, repetitions)
    return figures


def _measure(family: str, num_clients: int, num_devices: int, repetitions: int) -> dict[str, Any]:
    config = Config(
        method="protonorm",
        family=family,
        num_clients=num_clients,
        partition="iid",
        batch_size=32,
        last_batch="drop",
        devices=num_devices,
    )
    rng = np.random.default_rng(0)
    count = SAMPLES_PER_CLIENT * num_clients
    dataset = Dataset(
        rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, count, dtype=np.int32),
        num_classes=10,
        name="random",
    )
    cpu_start = time.process_time()
    simulation = driver.prepare(config, dataset)
    compile_cpu_seconds = time.process_time() - cpu_start
    state = [simulation.init(keys.root(config.seed))]

    def advance() -> None:
        state[0], _ = simulation.advance(state[0], 1)

    times = [timing.clock(advance) for _ in range(1 + repetitions)]
    driver.check_finite(config, state[0])
    median = timing.median(times[1:])
    steps = num_clients * (int(simulation.partition.train_count[0]) // config.batch_size)
    return {
        "seconds": median.wall / 1e3,
        "cpu_seconds": median.cpu / 1e3,
        "train_steps": steps,
        "compile_seconds": simulation.compile_seconds,
        "compile_cpu_seconds": compile_cpu_seconds,
        "bytes_per_device": simulation.bytes_per_device,
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    table = Table(title="One round: training, prototypes, alignment, both evaluations")
    for column in ("devices", "seconds", "CPU s", "train steps", "MiB a device"):
        table.add_column(column, justify="right")
    for column in ("compile s", "compile CPU s"):
        table.add_column(column, justify="right")
    for count, row in figures.items():
        table.add_row(
            count,
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            str(row["train_steps"]),
            f"{row['bytes_per_device'] / 2**20:.0f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['compile_cpu_seconds']:.1f}",
        )
    return [table]
