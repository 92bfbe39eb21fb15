"""The global search: the Thomson problem in three dimensions against the best known energies."""

import time
from typing import Any

from rich.table import Table

from protonorm_jax import keys, thomson


def measure(*, largest: int, restarts: int, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Solves the Thomson problem for 2 to `largest` points with every seed.

    Args:
      largest: most points.
      restarts: descents for each number of points.
      seeds: of the keys; the first includes compilation.
    """
    runs = []
    for seed in seeds:
        start, cpu_start = time.perf_counter(), time.process_time()
        energies = {
            num_points: thomson.minimize(
                keys.root(seed), num_points=num_points, restarts=restarts
            ).energy
            for num_points in range(2, largest + 1)
        }
        excess = {
            num_points: energy / thomson.best_known(num_points) - 1
            for num_points, energy in energies.items()
            if thomson.best_known(num_points)
        }
        runs.append(
            {
                "seed": seed,
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu_start,
                "sizes_in_table": len(excess),
                "within_1e-6": sum(value <= 1e-6 for value in excess.values()),
                "worst_excess": max(excess.values()),
                "energies": energies,
            }
        )
    return {"largest": largest, "restarts": restarts, "runs": runs}


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    table = Table(
        title=f"Thomson problem, N = 2..{figures['largest']}, D = 3, "
        f"{figures['restarts']} restarts, compilation included"
    )
    for column in ("seed", "s", "CPU s", "sizes in table", "within 1e-6", "worst excess"):
        table.add_column(column, justify="right")
    for run in figures["runs"]:
        table.add_row(
            str(run["seed"]),
            f"{run['seconds']:.1f}",
            f"{run['cpu_seconds']:.1f}",
            str(run["sizes_in_table"]),
            str(run["within_1e-6"]),
            f"{run['worst_excess']:.1e}",
        )
    return [table]
