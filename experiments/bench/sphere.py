"""The global search: the Thomson problem in three dimensions against the best known energies."""

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from protonorm_jax import keys, thomson

from .tables import table, values


def measure(largest: int = 100, restarts: int = 64, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
    """Solves the Thomson problem for 2 to `largest` points with every seed.

    The seconds of the first seed include compilation.
    """
    runs = []
    for seed in seeds:
        start, cpu_start = time.perf_counter(), time.process_time()
        energies = {
            count: thomson.minimize(keys.root(seed), num_points=count, restarts=restarts).energy
            for count in range(2, largest + 1)
        }
        known = {count: thomson.best_known(count) for count in energies}
        excess = [energies[count] / best - 1 for count, best in known.items() if best]
        runs.append(
            {
                "seed": seed,
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu_start,
                "sizes_in_table": len(excess),
                "within_1e-6": sum(value <= 1e-6 for value in excess),
                "worst_excess": max(excess),
                "energies": energies,
            }
        )
    return {"largest": largest, "restarts": restarts, "runs": runs}


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    title = (
        f"Thomson problem, N = 2..{figures['largest']}, D = 3, {figures['restarts']} restarts, "
        "compilation included"
    )
    columns = "seed | s:.1f | CPU s:.1f | sizes in table | within 1e-6 | worst excess:.1e"
    names = "seed seconds cpu_seconds sizes_in_table within_1e-6 worst_excess"
    return [table(title, columns, (values(run, names) for run in figures["runs"]))]
