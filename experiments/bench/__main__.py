"""The command: measures the chosen sections, prints their tables, adds a line to the history."""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Compile seconds are those of a cold start, here and in child processes.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
from rich.console import Console

from protonorm_jax.planning import targets

from . import (
    alignment,
    client_step,
    compilation,
    environment,
    federated_round,
    memory,
    method_round,
    participation,
    scale,
    schedule,
    server_step,
    sphere,
    start,
)

HISTORY = Path("bench/history.jsonl")
SECTIONS: dict[str, Any] = {
    "alignment": alignment,
    "sphere": sphere,
    "client_step": client_step,
    "round": federated_round,
    "methods": method_round,
    "participation": participation,
    "server": server_step,
    "schedule": schedule,
    "start": start,
    "scale": scale,
    "memory": memory,
    "compilation": compilation,
}
# What `--quick` measures of each instead of the usual sizes, which are the defaults of `measure`.
QUICK: dict[str, dict[str, Any]] = {
    "alignment": {"counts": (10,), "num_sets": 4, "most_points": 20, "repetitions": 2},
    "sphere": {"largest": 4, "restarts": 8},
    "client_step": {
        "architectures": ("fedavg_cnn",),
        "num_steps": 2,
        "repetitions": 2,
        "rate_sizes": (512, 64),
    },
    "round": {"family": "fedavg_cnn", "num_clients": 2, "repetitions": 1},
    "methods": {"names": ("fedproto",), "num_clients": 4, "repetitions": 1},
    "participation": {"cases": (("mlp", (4,)),), "participations": (1.0, 0.5), "repetitions": 1},
    "server": {"cases": server_step.CASES[:1], "repetitions": 1},
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
    "memory": {
        "target_names": (memory.targets.HERE,),
        "family": "mlp",
        "names": ("local",),
        "of_many": (),
        "of_paper": (),
    },
    "compilation": {"names": ("mlp,cnn",)},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code, which is 1 if programs have grown too large."""
    parsed = _parser().parse_args(arguments)
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    began = time.perf_counter()
    targets.leave_out_absent()
    entry = environment.describe() | {"quick": parsed.quick, "sections": {}}
    device = entry["device"]
    console.print(f"{device['count']} x {device['kind']}; {device['processor']}, ", end="")
    console.print(f"{device['cores']} cores; load average {entry['load_average']}")
    obstacle = _obstacle_to_torch(parsed.no_torch)
    if obstacle:
        console.print(f"{obstacle}: no side-by-side")
    sizes = {name: dict(QUICK[name] if parsed.quick else {}) for name in SECTIONS}
    sizes["round"]["num_devices"] = parsed.devices or _default_devices()
    for name in ("alignment", "client_step", "round", "server"):
        sizes[name]["beside_torch"] = not obstacle
    for name, section in SECTIONS.items():
        if name in parsed.only:
            figures = entry["sections"][name] = section.measure(**sizes[name])
            for table in section.tables(figures):
                console.print(table)
    entry["load_average_after"] = environment.load_average()
    entry["seconds"] = time.perf_counter() - began
    parsed.history.parent.mkdir(parents=True, exist_ok=True)
    with open(parsed.history, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry, allow_nan=False) + "\n")
    console.print(f"{entry['seconds']:.0f} s; load average {entry['load_average_after']}")
    console.print(f"figures added to {parsed.history}", soft_wrap=True)
    grown = compilation.excesses(entry["sections"].get("compilation", {}))
    for line in grown:
        console.print(line, soft_wrap=True)
    return 1 if grown else 0


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


def _sections(text: str) -> set[str]:
    for name in {*text.split(",")} - {*SECTIONS}:
        raise argparse.ArgumentTypeError(f"must be among {','.join(SECTIONS)}, got {name!r}")
    return {*text.split(",")}


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
    sys.exit(main())
