"""How long a user waits: from the start of `protonorm run` to the first accuracy on the screen."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table


def measure(settings: Sequence[str]) -> dict[str, float]:
    """Seconds to the first accuracy: with no compiled programs in the cache, then with all.

    The cache is the command's own, in a folder of its own.

    Args:
      settings: flags of `protonorm run`; none for the default run, on digits.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {name: _seconds(settings, Path(folder), name) for name in ("cold", "warm")}


def _seconds(settings: Sequence[str], folder: Path, name: str) -> float:
    # What this process was told about the cache must not reach the command.
    environment = {
        key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key
    }
    command = (sys.executable, "-m", "protonorm_jax", "run", "--rounds", "3", *settings)
    start = time.perf_counter()
    first = None
    with subprocess.Popen(
        (*command, "--out", str(folder / name)),
        env=environment | {"XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if first is None and "accuracy: " in line:
                first = time.perf_counter() - start
    if process.returncode or first is None:
        raise RuntimeError(f"{' '.join(command)} failed: {''.join(lines)}")
    return first


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    table = Table(title="Start to first accuracy")
    table.add_column("compiled programs")
    for column in ("seconds", "wanted"):
        table.add_column(column, justify="right")
    for name, wanted in (("cold", "<= 30"), ("warm", "<= 8")):
        table.add_row(
            {"cold": "none yet", "warm": "in the cache"}[name], f"{figures[name]:.1f}", wanted
        )
    return [table]
