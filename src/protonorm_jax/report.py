"""Tables and pictures for people."""

import itertools
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

_YARDSTICK = "majority class of each client"


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


def draw_curves(rows: Sequence[dict[str, Any]], summary: dict[str, Any], file: BinaryIO) -> None:
    """Draws accuracies with the yardstick, and the terms of the loss, over rounds.

    Args:
      rows: of one run.
      summary: of the same run.
      file: receives a PNG.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for name in ("prototype", "head"):
        if f"{name}_accuracy" in rows[0]:
            _line(accuracy, rows, f"{name}_accuracy", name)
    _finish_accuracy(accuracy, summary["majority_accuracy"])
    accuracy.set_title(f"{summary['method']}: accuracy")
    for name in ("loss", "cross_entropy", "prototype_mse"):
        if name in rows[0]:
            _line(loss, rows, name, name.replace("_", " "))
    loss.set_yscale("log")
    _count_rounds(loss)
    loss.set_ylabel("loss")
    loss.set_title("training, mean over steps and clients")
    loss.margins(y=0.25)
    loss.legend(loc="upper center", ncols=3, fontsize="small")
    loss.grid(alpha=0.3)
    figure.savefig(file, format="png", dpi=120)


def draw_comparison(
    runs: Sequence[tuple[dict[str, Any], Sequence[dict[str, Any]]]],
    names: Sequence[str],
    file: BinaryIO,
) -> None:
    """Draws the accuracies of several runs, by nearest prototype and by head.

    Runs with other yardsticks than each other have their own, in their colours.

    Args:
      runs: summary and rows of each.
      names: of each, where their methods do not tell them apart.
      file: receives a PNG.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    methods = [summary["method"] for summary, _ in runs]
    labels = methods if len(set(methods)) == len(methods) else names
    yardsticks = [summary["majority_accuracy"] for summary, _ in runs]
    differ = len(set(yardsticks)) > 1
    for axes, name in zip(panels, ("prototype", "head"), strict=True):
        for number, (_, rows) in enumerate(runs):
            if rows and f"{name}_accuracy" in rows[0]:
                _line(axes, rows, f"{name}_accuracy", labels[number], color=f"C{number}")
            if differ and yardsticks[number] is not None:
                axes.axhline(yardsticks[number], color=f"C{number}", linestyle="--")
        if differ:
            axes.plot([], [], color="grey", linestyle="--", label=f"{_YARDSTICK}, by color")
        _finish_accuracy(axes, None if differ else yardsticks[0])
        axes.set_title("nearest prototype" if name == "prototype" else "linear head")
    figure.savefig(file, format="png", dpi=120)


def draw_prototypes(arrays: dict[str, np.ndarray], file: BinaryIO) -> None:
    """Draws the angles between all pairs of prototypes before and after alignment.

    Args:
      arrays: `class_means` `[C, D]`, `prototypes` `[C, D]` and `known` `[C]`.
      file: receives a PNG.
    """
    known = np.flatnonzero(arrays["known"])
    before, after = (pairwise_angles(arrays[name][known]) for name in ("class_means", "prototypes"))
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    for axes, angles, title in zip(
        panels[:2], (before, after), ("averaged by the server", "sent to clients"), strict=True
    ):
        image = axes.imshow(angles, vmin=0, vmax=120, cmap="viridis")
        axes.set_title(f"angles, prototypes {title}")
        axes.set_xlabel("class")
        axes.set_ylabel("class")
        if len(known) <= 20:
            axes.set_xticks(range(len(known)), known)
            axes.set_yticks(range(len(known)), known)
    figure.colorbar(image, ax=panels[:2], label="degrees")
    upper = np.triu_indices(len(known), 1)
    bins = np.arange(0, 182, 2)
    panels[2].hist(before[upper], bins=bins, alpha=0.7, label="averaged by the server")
    panels[2].hist(after[upper], bins=bins, alpha=0.7, label="sent to clients")
    panels[2].set_xlabel("angle in degrees")
    panels[2].set_ylabel("pairs of classes")
    panels[2].set_title("all pairs")
    panels[2].margins(y=0.3)
    panels[2].legend(loc="upper right")
    figure.savefig(file, format="png", dpi=120)


def pairwise_angles(vectors: np.ndarray) -> np.ndarray:
    """Degrees between all rows of `vectors` `[C, D]`; NaN on the diagonal and for zero rows."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.full_like(vectors, np.nan), where=lengths > 0)
    angles = np.degrees(np.arccos(np.clip(unit @ unit.T, -1, 1)))
    np.fill_diagonal(angles, np.nan)
    return angles


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(row["round"], row[key]) for row in rows if row[key]]  # Zero has no logarithm.
    if not points:
        return
    marker = "o" if len(points) == 1 else None
    axes.plot(*zip(*points, strict=True), label=label, marker=marker, **style)


def _finish_accuracy(axes: Any, yardstick: float | None) -> None:
    if yardstick is not None:
        axes.axhline(yardstick, color="grey", linestyle="--", label=_YARDSTICK)
    axes.set_ylim(0, 1.02)
    _count_rounds(axes)
    axes.set_ylabel("accuracy")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _count_rounds(axes: Any) -> None:
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
