"""How much work the schedule of unequal clients wastes. Counted, not timed."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from protonorm_jax import models, partition
from protonorm_jax.planning import layout

BATCH_SIZE = 32
NUM_CLASSES = 10


def measure(num_splits: int, num_devices: Sequence[int]) -> dict[str, Any]:
    """Waste and imbalance over Dirichlet(0.1) splits of 60,000 samples to 20 `ht0` clients.

    Args:
      num_splits: how many splits to average over.
      num_devices: numbers of devices.

    Returns:
      By number of devices: `waste` of vmapped clients, `padded_waste` if their batch kept its
      width to the end, `widths` (copies of a training step that are compiled for an
      architecture), and `imbalance` (see `layout.Efficiency`) where clients take turns; medians
      over the splits, and of `waste` the worst as well.
    """
    labels = np.random.default_rng(0).integers(0, NUM_CLASSES, 60_000, dtype=np.int32)
    family = models.family("ht0")
    architectures = [family[i % len(family)] for i in range(20)]
    step_cost = {name: models.step_cost(name) for name in family}
    cost = [step_cost[name] for name in architectures]
    splits = [
        -(-3 * np.array([len(rows) for rows in shares]) // (4 * BATCH_SIZE))
        for shares in (
            partition.dirichlet(labels, 20, 0.1, seed, min_samples=40) for seed in range(num_splits)
        )
    ]
    figures = {}
    for count in num_devices:
        rows: dict[str, list[float]] = {}
        for steps in splits:
            settings = {"num_devices": count}
            mapped = layout.arrange(architectures, steps, cost, vmap_clients=0, **settings)
            by_turns = layout.arrange(architectures, steps, cost, vmap_clients=1, **settings)
            spread = layout.spread(1, count, 1)
            rows_mapped = layout.work_of([[mapped]], [[steps]], spread)
            rows_by_turns = layout.work_of([[by_turns]], [[steps]], spread)
            widths = layout.choose_widths(rows_mapped)
            never: list[tuple[int, ...]] = [()] * len(widths)
            values = {
                "waste": layout.efficiency(rows_mapped, widths, step_cost).waste,
                "padded_waste": layout.efficiency(rows_mapped, never, step_cost).waste,
                "widths": statistics.mean(max(len(narrowing), 1) for narrowing in widths),
                "imbalance": layout.efficiency(rows_by_turns, never, step_cost).imbalance,
            }
            for name, value in values.items():
                rows.setdefault(name, []).append(value)
        figures[str(count)] = {name: statistics.median(row) for name, row in rows.items()}
        figures[str(count)]["worst_waste"] = max(rows["waste"])
    return figures


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    table = Table(
        title="Work computed over work needed: 20 ht0 clients, Dirichlet(0.1)",
        caption="clients that take turns waste nothing; imbalance: busiest device over the mean",
    )
    columns = ("devices", "vmapped", "worst", "if padded", "widths", "imbalance by turns")
    for column in columns:
        table.add_column(column, justify="right")
    for count, row in figures.items():
        names = ("waste", "worst_waste", "padded_waste", "widths", "imbalance")
        table.add_row(count, *(f"{row[name]:.2f}" for name in names))
    return [table]
