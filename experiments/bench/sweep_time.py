"""How much sooner is a sweep done than its runs one after the other?

The runs are all combinations of `--seeds` seeds and `--scales`, on digits. One `protonorm sweep`
trains them, several at a time; and then as many calls of `protonorm run` do, each when the last
has ended. Either way has a folder of its own for compiled programs, empty at first, so that it
compiles each program once. The time is that of the commands, from start to end.

At the end the metrics of every run of the sweep are compared with those of the single run with the
same settings, byte by byte.

Command, for 8 seeds, s = 20, 40 and 80, 20 clients of the family `tiny`, and 100 rounds:

    python -m experiments.bench.sweep_time

With other sizes, in a minute or two:

    python -m experiments.bench.sweep_time --seeds 2 --scales 20 --rounds 5

Time: 8 minutes on two cores of an x86-64 server, jax 0.10.2.

Result of the 24 runs: the sweep takes 106.5 s, the single runs 365.9 s (3.44 x); the metrics of all
24 are identical.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def main(arguments: Sequence[str] | None = None) -> int:
    """Times both ways and prints the table; returns 0, or 1 if their metrics differ."""
    parsed = _parser().parse_args(arguments)
    settings = ["--data", parsed.data, "--family", parsed.family]
    settings += ["--num-clients", str(parsed.num_clients), "--rounds", str(parsed.rounds)]
    settings += ["--devices", str(parsed.devices)]
    with tempfile.TemporaryDirectory() as folder:
        swept, single = Path(folder) / "sweep", Path(folder) / "single"
        sweep_seconds = _sweep(swept, parsed.scales, parsed.seeds, settings)
        rows = _results(swept)
        single_seconds = _one_by_one(single, rows, settings)
        differing = [row["run"] for row in rows if not _identical(row["run"], swept, single)]
    Console().print(_table(len(rows), sweep_seconds, single_seconds, not differing))
    if differing:
        print(f"metrics differ: runs {', '.join(differing)}", file=sys.stderr)
    return 1 if differing else 0


def _sweep(folder: Path, scales: Sequence[float], seeds: int, settings: Sequence[str]) -> float:
    """Seconds of the sweep, which leaves its results in `folder / "out"`."""
    grid = "scale=" + ",".join(f"{scale:g}" for scale in scales)
    flags = ("--grid", grid, "--seeds", str(seeds), *settings)
    return _seconds(folder, "sweep", (*flags, "--out", str(folder / "out")))


def _one_by_one(folder: Path, rows: Sequence[dict[str, Any]], settings: Sequence[str]) -> float:
    """Seconds of all single runs, which leave their results in `folder / <run>`."""
    return sum(
        _seconds(
            folder,
            "run",
            (
                *("--seed", str(row["seed"]), "--scale", str(row["scale"]), *settings),
                *("--out", str(folder / row["run"])),
            ),
        )
        for row in rows
    )


def _seconds(folder: Path, command: str, flags: Sequence[str]) -> float:
    """Seconds that a command of protonorm takes, its compiled programs in `folder / "cache"`.

    Raises:
      RuntimeError: it fails.
    """
    # What this process was told about the cache must not reach the command.
    environment = {
        key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key
    }
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        # As protonorm has it for its own folder.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    start = time.perf_counter()
    result = subprocess.run(
        (sys.executable, "-m", "protonorm_jax", command, *flags),
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if result.returncode:
        raise RuntimeError(f"protonorm {command} {' '.join(flags)} failed: {result.stderr}")
    return seconds


def _results(folder: Path) -> list[dict[str, Any]]:
    """The rows of the sweep's results."""
    lines = (folder / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _identical(run: str, swept: Path, single: Path) -> bool:
    """Whether a run has the same metrics both ways, byte by byte."""
    files = (swept / "out" / "runs" / run / "metrics.jsonl", single / run / "metrics.jsonl")
    first, second = (file.read_bytes() for file in files)
    return first == second


def _table(runs: int, sweep_seconds: float, single_seconds: float, identical: bool) -> Table:
    table = Table(
        title=f"{runs} runs, with start and compilation",
        caption="ratio: seconds over those of the sweep; identical: metrics of all runs, bytewise",
    )
    table.add_column("way")
    for column in ("seconds", "seconds a run", "ratio", "identical"):
        table.add_column(column, justify="right")
    ways = {"protonorm sweep": sweep_seconds, "protonorm run, one by one": single_seconds}
    for way, seconds in ways.items():
        table.add_row(
            way,
            f"{seconds:.1f}",
            f"{seconds / runs:.2f}",
            f"{seconds / sweep_seconds:.2f}",
            "yes" if identical else "no",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.sweep_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="digits", help="default digits")
    parser.add_argument("--family", default="tiny", help="of models; default tiny")
    parser.add_argument("--num-clients", type=int, default=20, help="default 20")
    parser.add_argument("--rounds", type=int, default=100, help="default 100")
    parser.add_argument("--seeds", type=int, default=8, help="from 0 on; default 8")
    parser.add_argument(
        "--scales", type=_numbers, default=[20.0, 40.0, 80.0], help="default 20,40,80"
    )
    parser.add_argument("--devices", type=int, default=0, help="default 0, all")
    return parser


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
