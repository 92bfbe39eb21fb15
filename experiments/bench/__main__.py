"""The command: measures the chosen sections, prints their tables, adds a line to the history."""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Compile seconds are those of a cold start, here and in child processes.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
from rich.console import Console
from rich.table import Table

from . import (
    alignment,
    client_step,
    environment,
    federated_round,
    scale,
    schedule,
    sphere,
    start,
)

HISTORY = Path("bench/history.jsonl")
FULL: dict[str, dict[str, Any]] = {
    "alignment": {
        "counts": (10, 100, 200),
        "num_sets": 64,
        "most_points": 1000,
        "repetitions": 5,
    },
    "alignment_beside_torch": {"counts": (100, 200), "repetitions": 3},
    "sphere": {"largest": 100, "restarts": 64, "seeds": (0,)},
    "client_step": {
        "architectures": client_step.NAMES,
        "num_steps": 16,
        "repetitions": 5,
        "matrix_size": 2048,
        "stream_mib": 256,
    },
    "round": {"family": "ht0", "num_clients": 20, "repetitions": 5},
    "schedule": {"num_splits": 25, "num_devices": (1, 2, 4, 8)},
    "start": {"settings": ()},
    "scale": {
        "family": "tiny",
        "num_clients": 20,
        "run_counts": (1, 2, 4, 8),
        "model": "cnn",
        "client_counts": (20, 100, 500),
        "device_counts": (1, 2),
        "memory_of": (
            scale.Federation("tiny", 20),
            scale.Federation("tiny", 20, num_runs=4),
            scale.Federation("cnn", 500, train_samples=32, test_samples=10),
            scale.Federation(
                "resnet8,mobilenet_v2", 4, train_samples=32, test_samples=10, images="cifar"
            ),
        ),
        "repetitions": 7,
    },
}
QUICK: dict[str, dict[str, Any]] = {
    "alignment": {"counts": (10,), "num_sets": 4, "most_points": 20, "repetitions": 2},
    "alignment_beside_torch": {"counts": (10,), "repetitions": 2},
    "sphere": {"largest": 4, "restarts": 8, "seeds": (0,)},
    "client_step": {
        "architectures": ("fedavg_cnn",),
        "num_steps": 2,
        "repetitions": 2,
        "matrix_size": 512,
        "stream_mib": 64,
    },
    "round": {"family": "fedavg_cnn", "num_clients": 2, "repetitions": 1},
    "schedule": {"num_splits": 1, "num_devices": (1, 2)},
    "start": {"settings": ("--family", "mlp", "--num-clients", "2", "--devices", "1")},
    "scale": {
        "family": "mlp",
        "num_clients": 2,
        "run_counts": (1, 2),
        "model": "mlp",
        "client_counts": (2,),
        "device_counts": (),
        "memory_of": (scale.Federation("mlp", 2),),
        "repetitions": 1,
    },
}
SECTIONS = ("alignment", "sphere", "client_step", "round", "schedule", "start", "scale")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parsed = _parser().parse_args(arguments)
    sizes = QUICK if parsed.quick else FULL
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    began = time.perf_counter()
    entry = environment.describe() | {"quick": parsed.quick, "sections": {}}
    device = entry["device"]
    console.print(f"{device['count']} x {device['kind']}; {device['processor']}, ", end="")
    console.print(f"{device['cores']} cores; load average {entry['load_average']}")
    obstacle = _obstacle_to_torch(parsed.no_torch)
    if obstacle:
        console.print(f"{obstacle}: no side-by-side")

    def report(
        name: str, figures: dict[str, Any], tables: Callable[[dict[str, Any]], list[Table]]
    ) -> None:
        entry["sections"][name] = figures
        for table in tables(figures):
            console.print(table)

    if "alignment" in parsed.only:
        figures = alignment.measure(**sizes["alignment"])
        report("alignment", figures, alignment.tables)
        if not obstacle:
            figures = alignment.beside_torch(**sizes["alignment_beside_torch"])
            report("alignment_beside_torch", figures, alignment.torch_tables)
    if "sphere" in parsed.only:
        report("sphere", sphere.measure(**sizes["sphere"]), sphere.tables)
    if "client_step" in parsed.only:
        figures = client_step.measure(**sizes["client_step"], beside_torch=not obstacle)
        report("client_step", figures, client_step.tables)
    if "round" in parsed.only:
        steps = entry["sections"].get("client_step", {})
        figures = federated_round.measure(
            **sizes["round"],
            num_devices=parsed.devices or _default_devices(),
            temporaries_mib={name: row["temp_mib"] for name, row in steps.items()},
            beside_torch=not obstacle,
        )
        report("round", figures, federated_round.tables)
    if "schedule" in parsed.only:
        report("schedule", schedule.measure(**sizes["schedule"]), schedule.tables)
    if "start" in parsed.only:
        report("start", start.measure(**sizes["start"]), start.tables)
    if "scale" in parsed.only:
        report("scale", scale.measure(**sizes["scale"]), scale.tables)

    entry["load_average_after"] = environment.load_average()
    entry["seconds"] = time.perf_counter() - began
    environment.append(parsed.history, entry)
    console.print(f"{entry['seconds']:.0f} s; load average {entry['load_average_after']}")
    console.print(f"figures added to {parsed.history}", soft_wrap=True)


def _obstacle_to_torch(unwanted: bool) -> str:
    """Why torch is not measured beside us; empty if it is."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    if jax.default_backend() != "cpu":
        return "torch is compared on CPU only"
    return "--no-torch" if unwanted else ""


def _default_devices() -> list[int]:
    """Two on CPU, where compiling for one as well takes too long; else one, and all there are."""
    if jax.default_backend() == "cpu":
        return [2]
    return sorted({1, jax.local_device_count()})


def _sections(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"must be among {','.join(SECTIONS)}, got {name!r}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=__doc__)
    parser.add_argument(
        "--only", type=_sections, default=SECTIONS, help=f"sections, of {','.join(SECTIONS)}"
    )
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    parser.add_argument("--no-torch", action="store_true", help="leave torch out")
    parser.add_argument("--devices", type=_numbers, help="round: numbers of devices, such as 1,2")
    parser.add_argument("--history", type=Path, default=HISTORY, help=f"default {HISTORY}")
    return parser


if __name__ == "__main__":
    main()
