"""How much work the schedule of unequal clients wastes. Counted, not timed."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from protonorm_jax import models, partition
from protonorm_jax.planning import layout

from .harness import BATCH_SIZE, NUM_CLASSES, Federation
from .tables import table, values


def measure(num_splits: int = 25, num_devices: Sequence[int] = (1, 2, 4, 8)) -> dict[str, Any]:
    """Waste and imbalance over Dirichlet(0.1) splits of 60,000 samples to 20 `ht0` clients.

    Returns:
      By number of devices: `waste` of vmapped clients, `padded_waste` if their batch kept its
      width to the end, `widths` (copies of a training step that are compiled for an
      architecture), and `imbalance` (see `layout.Efficiency`) where clients take turns; medians
      over the splits, and of `waste` the worst as well.
    """
    labels = np.random.default_rng(0).integers(0, NUM_CLASSES, 60_000, dtype=np.int32)
    architectures = Federation("ht0", 20).architectures
    step_cost = {name: models.step_cost(name) for name in architectures}
    splits = []
    for seed in range(num_splits):
        shares = partition.dirichlet(labels, 20, 0.1, seed, min_samples=40)
        splits.append(-(-3 * np.array([len(rows) for rows in shares]) // (4 * BATCH_SIZE)))
    figures = {}
    for count in num_devices:
        rows = [_split(architectures, steps, step_cost, count) for steps in splits]
        figures[str(count)] = {
            "worst_waste": max(row["waste"] for row in rows),
            **{name: statistics.median(row[name] for row in rows) for name in rows[0]},
        }
    return figures


def _split(
    architectures: list[str], steps: np.ndarray, step_cost: dict[str, float], num_devices: int
) -> dict[str, float]:
    """The figures of one split, where clients take so many steps."""
    spread = layout.spread(1, num_devices, 1)
    cost = [step_cost[name] for name in architectures]

    def work(vmap_clients: int) -> list[layout.Work]:
        together = dict.fromkeys(architectures, vmap_clients)
        arranged = layout.arrange(
            architectures, steps, cost, num_devices=num_devices, vmap_clients=together
        )
        return layout.work_of([[arranged]], [[steps]], spread)

    mapped, by_turns = work(0), work(1)
    widths = layout.choose_widths(mapped)
    never: list[tuple[int, ...]] = [()] * len(widths)
    return {
        "waste": layout.efficiency(mapped, widths, step_cost).waste,
        "padded_waste": layout.efficiency(mapped, never, step_cost).waste,
        "widths": statistics.mean(max(len(narrowing), 1) for narrowing in widths),
        "imbalance": layout.efficiency(by_turns, never, step_cost).imbalance,
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    names = "waste worst_waste padded_waste widths imbalance"
    columns = "vmapped:.2f | worst:.2f | if padded:.2f | widths:.2f | imbalance by turns:.2f"
    return [
        table(
            "Work computed over work needed: 20 ht0 clients, Dirichlet(0.1)",
            f"devices | {columns}",
            ((count, *values(row, names)) for count, row in figures.items()),
            "clients that take turns waste nothing; imbalance: busiest device over the mean",
        )
    ]
