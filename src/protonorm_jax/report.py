"""Tables and pictures for people."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

_YARDSTICK = "majority class of each client"


def comparison_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """Finished runs side by side, the yardstick among them."""
    table = Table(title="Accuracy over all clients' test samples (last round | best round)")
    table.add_column("method", no_wrap=True)
    for name in ("prototype", "head", "majority class", "std over clients"):
        table.add_column(name, justify="right")
    for name in ("min. angle", "floats up", "rounds", "run s", "compile s"):
        table.add_column(name, justify="right")
    for summary in summaries:
        accuracies = [
            f"{_number(summary.get(f'{name}_accuracy'), '.3f')} | "
            f"{_number(summary.get(f'{name}_accuracy_best'), '.3f')}"
            for name in ("prototype", "head")
        ]
        best = "prototype" if summary.get("prototype_accuracy") is not None else "head"
        table.add_row(
            summary["method"],
            *accuracies,
            _number(summary.get("majority_accuracy"), ".3f"),
            _number(summary.get(f"{best}_accuracy_std"), ".3f"),
            _number(summary.get("min_angle"), ".1f"),
            _number(summary.get("floats_up"), ",d"),
            _number(summary.get("rounds"), "d"),
            _number(summary.get("seconds"), ".1f"),
            _number(summary.get("compile_seconds"), ".1f"),
        )
    return table


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
    loss.set_xlabel("round")
    loss.set_title("training, mean over steps and clients")
    loss.legend()
    loss.grid(alpha=0.3)
    figure.savefig(file, format="png", dpi=120)


def draw_comparison(
    runs: Sequence[tuple[dict[str, Any], Sequence[dict[str, Any]]]], file: BinaryIO
) -> None:
    """Draws the accuracies of several runs, by nearest prototype and by head.

    Args:
      runs: summary and rows of each.
      file: receives a PNG.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("prototype", "head"), strict=True):
        for number, (summary, rows) in enumerate(runs):
            if rows and f"{name}_accuracy" in rows[0]:
                _line(axes, rows, f"{name}_accuracy", summary["method"], color=f"C{number}")
        _finish_accuracy(axes, runs[0][0]["majority_accuracy"])
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
    for axes, angles, title in zip(panels, (before, after), ("averaged", "sent"), strict=False):
        image = axes.imshow(angles, vmin=0, vmax=120, cmap="viridis")
        axes.set_title(f"{title} prototypes: angle between classes")
        axes.set_xlabel("class")
        axes.set_ylabel("class")
        if len(known) <= 20:
            axes.set_xticks(range(len(known)), known)
            axes.set_yticks(range(len(known)), known)
    figure.colorbar(image, ax=panels[:2], label="degrees")
    upper = np.triu_indices(len(known), 1)
    bins = np.linspace(0, 180, 91)
    panels[2].hist(before[upper], bins=bins, alpha=0.7, label="averaged by the server")
    panels[2].hist(after[upper], bins=bins, alpha=0.7, label="sent to the clients")
    panels[2].set_xlabel("angle in degrees")
    panels[2].set_ylabel("pairs of classes")
    panels[2].set_title("all pairs")
    panels[2].legend()
    figure.savefig(file, format="png", dpi=120)


def pairwise_angles(vectors: np.ndarray) -> np.ndarray:
    """Degrees between all rows of `vectors` `[C, D]`; NaN on the diagonal and for zero rows."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.full_like(vectors, np.nan), where=lengths > 0)
    angles = np.degrees(np.arccos(np.clip(unit @ unit.T, -1, 1)))
    np.fill_diagonal(angles, np.nan)
    return angles


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(row["round"], row[key]) for row in rows if row[key] is not None]
    marker = "o" if len(points) == 1 else None
    axes.plot(*zip(*points, strict=True), label=label, marker=marker, **style)


def _finish_accuracy(axes: Any, yardstick: float | None) -> None:
    if yardstick is not None:
        axes.axhline(yardstick, color="grey", linestyle="--", label=_YARDSTICK)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
