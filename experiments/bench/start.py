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

from .tables import table


def measure(settings: Sequence[str] = ()) -> dict[str, float]:
    """Seconds to the first accuracy: with no compiled programs in the cache, then with all.

    The cache is the command's own, in a folder of its own. Without flags of `protonorm run` in
    `settings` it is the default run, on digits.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {name: _seconds(settings, Path(folder), name) for name in ("cold", "warm")}


def _seconds(settings: Sequence[str], folder: Path, name: str) -> float:
    # What this process was told about the cache must not reach the command.
    environment = {name: os.environ[name] for name in os.environ if "COMPILATION_CACHE" not in name}
    command = (sys.executable, "-m", "protonorm_jax", "run", "--rounds", "3", *settings)
    first, lines = None, []
    start = time.perf_counter()
    with subprocess.Popen(
        (*command, "--out", str(folder / name)),
        env=environment | {"XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if first is None and "accuracy: " in line:
                first = time.perf_counter() - start
    if process.returncode or first is None:
        raise RuntimeError(f"{' '.join(command)} failed: {''.join(lines)}")
    return first


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    rows = ("none yet", figures["cold"], "<= 30"), ("in the cache", figures["warm"], "<= 8")
    return [table("Start to first accuracy", "compiled programs | seconds:.1f | wanted", rows)]
