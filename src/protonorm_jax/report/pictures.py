"""Pictures for people."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure

from protonorm_jax import metrics

_YARDSTICK = "majority class of each client"


def draw_curves(rows: Sequence[dict[str, Any]], summary: dict[str, Any], file: BinaryIO) -> None:
    """Draws accuracies with the yardstick, and the terms of the loss, over rounds.

    Args:
      rows: of one run.
      summary: of the same run.
      file: receives a PNG.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for name in metrics.predictors(rows[0]):
        _line(accuracy, rows, f"{name}_accuracy", name)
    _finish_accuracy(accuracy, summary["majority_accuracy"])
    accuracy.set_title(f"{summary['method']}: accuracy")
    for name in rows[0]:
        if name.endswith(("loss", "cross_entropy", "mse")):
            _line(loss, rows, name, name.replace("_", " "))
    loss.set_yscale("log")
    _count_rounds(loss)
    loss.set_ylabel("loss")
    loss.set_title("training, mean over steps and clients")
    # Room for the legend above the lines, two entries a row.
    entries = len(loss.get_lines())
    loss.margins(y=0.15 + 0.1 * -(-entries // 2))
    loss.legend(loc="upper center", ncols=2, fontsize="small")
    loss.grid(alpha=0.3)
    figure.savefig(file, format="png", dpi=120)


def draw_comparison(
    runs: Sequence[tuple[dict[str, Any], Sequence[dict[str, Any]]]],
    names: Sequence[str],
    file: BinaryIO,
) -> None:
    """Draws the accuracies of several runs, a panel for each predictor that one of them has.

    Runs with other yardsticks than each other have their own, in their colours.

    Args:
      runs: summary and rows of each.
      names: of each, where their methods do not tell them apart.
      file: receives a PNG.
    """
    predictors = metrics.predictors({key: None for _, rows in runs for row in rows for key in row})
    figure = Figure(figsize=(5 * max(len(predictors), 1), 4), layout="constrained")
    panels = figure.subplots(1, max(len(predictors), 1), sharey=True, squeeze=False)[0]
    methods = [summary["method"] for summary, _ in runs]
    labels = methods if len(set(methods)) == len(methods) else names
    yardsticks = [summary["majority_accuracy"] for summary, _ in runs]
    differ = len(set(yardsticks)) > 1
    for axes, name in zip(panels, predictors or ["head"], strict=True):
        for number, (_, rows) in enumerate(runs):
            if rows and f"{name}_accuracy" in rows[0]:
                _line(axes, rows, f"{name}_accuracy", labels[number], color=f"C{number}")
            if differ and yardsticks[number] is not None:
                axes.axhline(yardsticks[number], color=f"C{number}", linestyle="--")
        if differ:
            axes.plot([], [], color="grey", linestyle="--", label=f"{_YARDSTICK}, by color")
        _finish_accuracy(axes, None if differ else yardsticks[0])
        axes.set_title({"prototype": "nearest prototype", "head": "head"}.get(name, name))
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
    vectors = np.asarray(vectors, np.float64)  # Squares of large float32 numbers overflow.
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.full_like(vectors, np.nan), where=lengths > 0)
    angles = np.degrees(np.arccos(np.clip(unit @ unit.T, -1, 1)))
    np.fill_diagonal(angles, np.nan)
    return angles


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    # Zero has no logarithm, as a number that is not there; the line has a gap.
    values = np.array([row[key] or np.nan for row in rows], float)
    gaps = np.isnan(values)
    if gaps.all():
        return
    around = np.pad(gaps, 1, constant_values=True)
    alone = np.flatnonzero(~gaps & around[:-2] & around[2:]).tolist()  # No line shows them.
    if alone:
        style |= {"marker": "o", "markevery": alone}
    axes.plot([row["round"] for row in rows], values, label=label, **style)


def _finish_accuracy(axes: Any, yardstick: float | None) -> None:
    if yardstick is not None:
        axes.axhline(yardstick, color="grey", linestyle="--", label=_YARDSTICK)
    axes.set_ylim(0, 1.02)
    _count_rounds(axes)
    axes.set_ylabel("accuracy")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best")
    axes.grid(alpha=0.3)


def _count_rounds(axes: Any) -> None:
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
