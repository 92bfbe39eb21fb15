"""Pictures for people."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from protonorm_jax import metrics
from protonorm_jax.report import canvas

_YARDSTICK = "majority class of each client"


def draw_curves(rows: Sequence[dict[str, Any]], summary: dict[str, Any], file: BinaryIO) -> None:
    """Draws accuracies with the yardstick, and the terms of the loss, over rounds.

    Args:
      rows: of one run.
      summary: of the same run.
      file: receives a PNG.
    """
    with canvas.drawing(file, figsize=(10, 4)) as figure:
        accuracy, loss = figure.subplots(1, 2)
        for name in metrics.predictors(rows[0]):
            _line(accuracy, rows, metrics.column(name), name)
            common = metrics.column(name, metrics.COMMON)
            if common in rows[0]:
                _line(accuracy, rows, common, f"{name}, common test set", linestyle=":")
        if summary.get("selected_round") is not None:
            accuracy.axvline(
                summary["selected_round"], color="grey", linestyle=":", label="selected round"
            )
        _finish_accuracy(accuracy, summary["majority_accuracy"])
        accuracy.set_title(f"{canvas.label(summary['method'])}: accuracy")
        for name in rows[0]:
            if name.endswith(("loss", "cross_entropy", "mse")):
                # Zero has no logarithm.
                positive = [row | {name: row.get(name) or None} for row in rows]
                _line(loss, positive, name, name.replace("_", " "))
        loss.set_yscale("log")
        _count_rounds(loss)
        loss.set_ylabel("loss")
        loss.set_title("training, mean over steps and clients")
        # Room for the legend above the lines, two entries a row.
        entries = len(loss.get_lines())
        loss.margins(y=0.15 + 0.1 * -(-entries // 2))
        _explain(loss, loc="upper center", ncols=2, fontsize="small")
        loss.grid(alpha=0.3)


def draw_comparison(
    runs: Sequence[tuple[dict[str, Any], Sequence[dict[str, Any]]]],
    names: Sequence[str],
    file: BinaryIO,
    form: str = "png",
) -> None:
    """Draws the accuracies of several runs, a panel for each predictor that one of them has.

    Runs with other yardsticks than each other have their own, in their colours.

    Args:
      runs: summary and rows of each.
      names: of each, where their methods do not tell them apart.
      file: receives the picture.
      form: one of `canvas.FORMATS`.
    """
    predictors = metrics.predictors({key: None for _, rows in runs for row in rows for key in row})
    with canvas.drawing(file, form, figsize=(5 * max(len(predictors), 1), 4)) as figure:
        panels = figure.subplots(1, max(len(predictors), 1), sharey=True, squeeze=False)[0]
        methods = [summary["method"] for summary, _ in runs]
        labels = methods if len(set(methods)) == len(methods) else names
        yardsticks = [summary["majority_accuracy"] for summary, _ in runs]
        differ = len(set(yardsticks)) > 1
        for axes, name in zip(panels, predictors or ["head"], strict=True):
            for number, (_, rows) in enumerate(runs):
                if any(f"{name}_accuracy" in row for row in rows):
                    _line(axes, rows, f"{name}_accuracy", labels[number], color=f"C{number}")
                common, label = metrics.column(name, metrics.COMMON), f"{labels[number]}, common"
                if rows and common in rows[0]:
                    _line(axes, rows, common, label, color=f"C{number}", linestyle=":")
                if differ and yardsticks[number] is not None:
                    axes.axhline(yardsticks[number], color=f"C{number}", linestyle="--")
            if differ:
                axes.plot([], [], color="grey", linestyle="--", label=f"{_YARDSTICK}, by color")
            _finish_accuracy(axes, None if differ else yardsticks[0])
            axes.set_title({"prototype": "nearest prototype"}.get(name, canvas.label(name)))


def draw_prototypes(arrays: dict[str, np.ndarray], file: BinaryIO) -> None:
    """Draws the angles between all pairs of prototypes before and after alignment.

    Args:
      arrays: `class_means` `[C, D]`, `prototypes` `[C, D]` and `known` `[C]`.
      file: receives a PNG.
    """
    known = np.flatnonzero(arrays["known"])
    before, after = (pairwise_angles(arrays[name][known]) for name in ("class_means", "prototypes"))
    with canvas.drawing(file, figsize=(13, 4)) as figure:
        panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        for axes, angles, title in zip(
            panels[:2], (before, after), ("averaged by the server", "sent to clients"), strict=True
        ):
            if len(known):
                axes.imshow(angles, vmin=0, vmax=120, cmap="viridis")
            axes.set_title(f"angles, prototypes {title}")
            axes.set_xlabel("class")
            axes.set_ylabel("class")
            if len(known) <= 20:
                axes.set_xticks(range(len(known)), known)
                axes.set_yticks(range(len(known)), known)
        if len(known):
            figure.colorbar(panels[0].images[0], ax=panels[:2], label="degrees")
        upper = np.triu_indices(len(known), 1)
        bins = np.arange(0, 182, 2)
        for angles, which in ((before, "averaged by the server"), (after, "sent to clients")):
            pairs = angles[upper]
            panels[2].hist(pairs[np.isfinite(pairs)], bins=bins, alpha=0.7, label=which)
        panels[2].set_xlabel("angle in degrees")
        panels[2].set_ylabel("pairs of classes")
        panels[2].set_title("all pairs")
        panels[2].margins(y=0.3)
        panels[2].legend(loc="upper right")


def pairwise_angles(vectors: np.ndarray) -> np.ndarray:
    """Degrees between all rows of `vectors` `[C, D]`; NaN on the diagonal and for zero rows."""
    vectors = np.asarray(vectors, np.float64)  # Squares of large float32 numbers overflow.
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.full_like(vectors, np.nan), where=lengths > 0)
    angles = np.degrees(np.arccos(np.clip(unit @ unit.T, -1, 1)))
    np.fill_diagonal(angles, np.nan)
    return angles


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    # Where there is no number, the line has a gap.
    values = np.array([np.nan if row.get(key) is None else row[key] for row in rows], float)
    gaps = np.isnan(values)
    if gaps.all():
        return
    around = np.pad(gaps, 1, constant_values=True)
    alone = np.flatnonzero(~gaps & around[:-2] & around[2:]).tolist()  # No line shows them.
    if alone:
        style |= {"marker": "o", "markevery": alone}
    axes.plot([row["round"] for row in rows], values, label=canvas.label(label), **style)


def _finish_accuracy(axes: Any, yardstick: float | None) -> None:
    if yardstick is not None:
        axes.axhline(yardstick, color="grey", linestyle="--", label=_YARDSTICK)
    axes.set_ylim(0, 1.02)
    _count_rounds(axes)
    axes.set_ylabel("accuracy")
    _explain(axes, loc="best")
    axes.grid(alpha=0.3)


def _explain(axes: Any, **place: Any) -> None:
    """Puts a legend to what there is."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**place)


def _count_rounds(axes: Any) -> None:
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
