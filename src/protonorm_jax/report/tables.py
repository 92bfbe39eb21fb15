"""Tables and lines for people."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table


def comparison_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """Recorded runs side by side, the yardstick among them; fits into 80 columns."""
    table = Table(
        title="Accuracy by nearest prototype and by head, last and best round",
        caption="majority: guessing each client's most frequent class; std: over clients; "
        "angle: smallest between prototypes, in degrees; floats up: all clients, last round",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("method", no_wrap=True)
    for name in ("prototype", "best", "head", "best", "majority", "std", "angle", "floats up"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("run s", justify="right", no_wrap=True)
    for summary in summaries:
        main = "prototype" if summary.get("prototype_accuracy") is not None else "head"
        cells = [
            ("prototype_accuracy", ".3f"),
            ("prototype_accuracy_best", ".3f"),
            ("head_accuracy", ".3f"),
            ("head_accuracy_best", ".3f"),
            ("majority_accuracy", ".3f"),
            (f"{main}_accuracy_std", ".3f"),
            ("min_angle", ".1f"),
            ("floats_up", ",d"),
            ("seconds", ".1f"),
        ]
        table.add_row(summary["method"], *(_number(summary.get(key), form) for key, form in cells))
    return table


def plan_table(programs: Sequence[dict[str, Any]]) -> Table:
    """What `sweep.description` says."""
    table = Table(
        title=f"{sum(program['runs'] for program in programs)} runs, {len(programs)} "
        f"program{'s'[: len(programs) > 1]} to compile",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in programs[0]["fixed"]:
        table.add_column(name)
    for name in ("runs", "at a time", "calls", "devices", "runs each", "vmapped", "MiB a device"):
        table.add_column(name, justify="right")
    for program in programs:
        figures = (
            program["runs"],
            program["runs_per_program"],
            -(-program["runs"] // program["runs_per_program"]),
            program["devices"],
            program["runs_each"],
            program["vmap_runs"],
        )
        table.add_row(
            *map(str, program["fixed"].values()),
            *map(str, figures),
            f"{program['bytes_per_device'] / 2**20:,.1f}",
        )
    return table


def sweep_table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    """Mean and standard error over the seeds of each point of a sweep.

    Args:
      rows: of `results.jsonl`.
      names: of the settings besides the seed that the sweep varies.
    """
    names = [name for name in names if len({str(row.get(name)) for row in rows}) > 1]
    table = Table(
        title="Accuracy of the last and of the best round, mean ± standard error over seeds",
        caption="majority: guessing each client's most frequent class",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    failures = any(row["status"] != "finished" for row in rows)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("runs", *(["failed"] if failures else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("prototype", "best", "head", "best", "majority"):
        table.add_column(name, justify="right", overflow="fold")
    points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        points.setdefault(tuple(row.get(name) for name in names), []).append(row)
    for point, members in points.items():
        finished = [row for row in members if row["status"] == "finished"]
        counts = [len(finished), *([len(members) - len(finished)] if failures else [])]
        table.add_row(
            *("-" if value is None else str(value) for value in point),
            *map(str, counts),
            *(
                mean_and_error([row[key] for row in finished if row.get(key) is not None])
                for key in (
                    "prototype_accuracy",
                    "prototype_accuracy_best",
                    "head_accuracy",
                    "head_accuracy_best",
                    "majority_accuracy",
                )
            ),
        )
    return table


def verification_lines(
    rounds: Sequence[tuple[int, Sequence[Any]]], arrays: Sequence[Any], changes: Sequence[str]
) -> list[str]:
    """What `verify.Verification` holds, row by row; equal rows in a row are one line.

    Args:
      rounds: for each recorded row, its round and what differs.
      arrays: what differs in the prototypes.
      changes: what is not as it was when the run was recorded.
    """
    lines = [f"not as recorded: {change}" for change in changes]
    for same, several in itertools.groupby(rounds, key=lambda pair: not pair[1]):
        group = list(several)
        if same:
            first, last = group[0][0], group[-1][0]
            which = f"round {first}" if first == last else f"rounds {first} to {last}"
            lines.append(f"{which}: bit-identical ({len(group)} row{'s'[: len(group) > 1]})")
            continue
        for round_index, differences in group:
            worst = [one for one in differences if not one.within]
            verdict = "DIFFERENT" if worst else "within tolerance"
            lines.append(f"round {round_index}: {verdict}: {_differences(worst or differences)}")
    if arrays:
        worst = [one for one in arrays if not one.within]
        verdict = "DIFFERENT" if worst else "within tolerance"
        lines.append(f"prototypes.npz: {verdict}: {_differences(worst or arrays)}")
    else:
        lines.append("prototypes.npz: bit-identical")
    return lines


def _differences(differences: Sequence[Any]) -> str:
    shown = [f"{one.name} {one.recorded} -> {one.now}" for one in differences[:3]]
    more = len(differences) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def mean_and_error(values: Sequence[float]) -> str:
    """Mean and standard error of the mean as `0.912±0.004`; the error needs two values."""
    if not values:
        return "-"
    mean = np.mean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    return f"{mean:.3f}±{np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
