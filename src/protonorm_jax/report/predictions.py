"""What trained clients make of samples: accuracies, and which classes are taken for which."""

import math
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from protonorm_jax.report import canvas

_MOST_PANELS = 12  # With more clients than that, one panel for all of them together.
_MOST_NUMBERS = 12  # Classes up to which cells have their percentage written in them.


class Predicted(NamedTuple):
    """What a client makes of samples.

    Attributes:
      client: its number.
      architecture: name of its model.
      labels: `[N]` of the samples.
      scores: `[N, C]`; a sample whose scores are all infinite has no answer, which is wrong.
      train_by_class: `[C]`, the training samples of the client.
    """

    client: int
    architecture: str
    labels: np.ndarray
    scores: np.ndarray
    train_by_class: np.ndarray

    @property
    def right(self) -> int:
        """How many answers are right."""
        return int(np.trace(self.confusion()))

    @property
    def majority(self) -> int:
        """How many would be, were the most frequent training class the answer to all."""
        return int((self.labels == self.train_by_class.argmax()).sum())

    def confusion(self) -> np.ndarray:
        """`[C, C]`, samples by their class and by the answer."""
        answered = np.isfinite(self.scores).any(axis=1)
        num_classes = self.scores.shape[1]
        cells = self.labels[answered] * num_classes + self.scores[answered].argmax(axis=1)
        counts = np.bincount(cells, minlength=num_classes**2)
        return counts.reshape(num_classes, num_classes)


def predictions_table(found: Sequence[Predicted], by: str) -> Table:
    """A line for each client, and one for all samples of all of them.

    Args:
      found: of each client.
      by: the name of the predictor.
    """
    table = Table(
        title=f"Accuracy by {by}",
        caption="majority: guessing each client's most frequent training class",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("client", justify="right", no_wrap=True)
    table.add_column("architecture", overflow="fold")
    for head in ("samples", "accuracy", "majority"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in found:
        cells = _cells(len(one.labels), one.right, one.majority)
        table.add_row(str(one.client), one.architecture, *cells)
    if len(found) > 1:
        sums = [sum(values) for values in zip(*map(_numbers, found), strict=True)]
        table.add_section()
        table.add_row("all", "", *_cells(*sums))
    return table


def draw_confusion(found: Sequence[Predicted], by: str, file: BinaryIO, form: str = "png") -> None:
    """Draws which classes are taken for which: a panel a client, or one for many.

    Args:
      found: of each client.
      by: the name of the predictor.
      file: receives the picture.
      form: one of `canvas.FORMATS`.
    """
    panels = [(f"client {one.client}, {one.architecture}", [one]) for one in found]
    if len(found) > _MOST_PANELS:
        panels = [(f"{len(found)} clients together", list(found))]
    num_classes = found[0].scores.shape[1]
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    side = float(np.clip(0.36 * num_classes, 2.6, 6))
    size = (columns * side + 1.2, rows * (side + 0.6))
    with canvas.drawing(file, form, figsize=size) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, (name, group) in zip(grid, panels, strict=False):
            image = _draw_panel(axes, group)
            count, right, majority = (sum(one) for one in zip(*map(_numbers, group), strict=True))
            axes.set_title(
                f"{canvas.label(name)}\naccuracy {_share(right, count)}, majority "
                f"{_share(majority, count)}",
                fontsize=9,
            )
        shrink = 1 if rows == 1 else 0.5
        bar = figure.colorbar(image, ax=list(grid[: len(panels)]), shrink=shrink, aspect=25)
        bar.set_label("% of the samples of the class", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        figure.suptitle(f"Answers by {canvas.label(by)}", fontsize=11)


def _draw_panel(axes: Any, group: Sequence[Predicted]) -> Any:
    """One map; classes without a sample stay white."""
    counts = np.sum([one.confusion() for one in group], axis=0)
    held = np.sum([np.bincount(one.labels, minlength=len(counts)) for one in group], axis=0)
    shares = 100 * counts / np.maximum(held, 1)[:, None]
    shown = np.ma.masked_array(shares, np.broadcast_to(held[:, None] == 0, shares.shape))
    image = axes.imshow(shown, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    axes.set_xlabel("answer", fontsize=8)
    axes.set_ylabel("class", fontsize=8)
    axes.tick_params(labelsize=7)
    if len(counts) <= _MOST_NUMBERS:
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        for row, column in np.argwhere(counts > 0):
            share = shares[row, column]
            color = "white" if share > 60 else "black"
            text = f"{share:.0f}" if share >= 0.5 else "<1"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
    return image


def _numbers(one: Predicted) -> tuple[int, int, int]:
    return len(one.labels), one.right, one.majority


def _cells(count: int, right: int, majority: int) -> tuple[str, str, str]:
    return f"{count:,}", _share(right, count), _share(majority, count)


def _share(part: int, count: int) -> str:
    return f"{part / count:.3f}" if count else "-"
