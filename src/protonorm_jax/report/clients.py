"""Who holds what: each client's samples by class, as a table and as a picture."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from rich import box
from rich.table import Table

from protonorm_jax.report import canvas

_MOST_COLUMNS = 12  # Classes that have a column each.
_MOST_BUBBLES = 40  # Clients or classes that are drawn as bubbles.
MOST_SHOWN = 500
"""Clients that have a column each in a map; of more, neighbours share one."""
_BUBBLE = 0.9  # Diameter of the largest, of the distance between two.
_DOT = 2.0  # Area of the smallest, in square points: one sample must be seen.


def clients_table(train: np.ndarray, test: np.ndarray, names: Sequence[str] | None = None) -> Table:
    """A line for each client: its sizes, and samples by class where the classes fit.

    Args:
      train: `[M, C]` training samples of each class.
      test: `[M, C]` test samples of each class; by class they are counted with the others.
      names: of the clients; by default their numbers.
    """
    num_classes = train.shape[1]
    both, fits = train + test, num_classes <= _MOST_COLUMNS
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("client", overflow="fold")
    rest = [str(label) for label in range(num_classes)] if fits else ["largest class", "share"]
    for head in ("train", "test", "classes", *rest):
        table.add_column(head, justify="right", no_wrap=True)
    for client, counts in enumerate(both):
        largest = int(counts.argmax())
        by_class = [f"{count:,}" if count else "-" for count in counts]
        share = counts[largest] / max(counts.sum(), 1)
        table.add_row(
            names[client] if names else str(client),
            f"{train[client].sum():,}",
            f"{test[client].sum():,}",
            str((counts > 0).sum()),
            *(by_class if fits else (str(largest), f"{share:.0%}")),
        )
    return table


def draw_clients(train: np.ndarray, test: np.ndarray, file: BinaryIO, form: str = "png") -> None:
    """Draws each client's samples by class, training above test: bubbles, or a map of many.

    Of more than `MOST_SHOWN` clients neighbours are drawn as one, with the samples of all of them.

    Args:
      train: `[M, C]` training samples of each class.
      test: `[M, C]` test samples of each class.
      file: receives the picture.
      form: one of `canvas.FORMATS`.
    """
    num_clients, num_classes = train.shape
    width = float(np.clip(1.8 + 0.36 * num_clients, 5, 14))
    height = float(np.clip(1.2 + 0.36 * num_classes, 2.4, 5))
    with canvas.drawing(file, form, figsize=(width, 2 * height)) as figure:
        panels = figure.subplots(2, 1, sharex=True)
        (train, each), (test, _) = joined(train), joined(test)
        most = int(max(train.max(), test.max(), 1))
        for axes, counts, title in zip(panels, (train, test), ("training", "test"), strict=True):
            if max(num_clients, num_classes) <= _MOST_BUBBLES:
                _draw_bubbles(figure, axes, counts, most)
            else:
                _draw_map(figure, axes, counts, most, each)
            mark = f"mark, of {each:,} clients" if each > 1 else "mark"
            axes.set_title(
                f"{title}: {counts.sum():,} samples, the largest {mark}: {counts.max():,}"
            )
            axes.set_ylabel("class")
            axes.set_xlim(-0.6, num_clients - 0.4)
            axes.set_ylim(-0.6, num_classes - 0.4)
        panels[1].set_xlabel("client")


def joined(counts: np.ndarray) -> tuple[np.ndarray, int]:
    """The samples of neighbouring clients put together, until there are few enough to be seen.

    Args:
      counts: `[M, C]` samples of each client by class.

    Returns:
      `[at most MOST_SHOWN, C]`, and how many clients each row stands for; the last may be fewer.
    """
    num_clients, num_classes = counts.shape
    each = max(-(-num_clients // MOST_SHOWN), 1)
    padded = np.pad(counts, ((0, -num_clients % each), (0, 0)))
    return padded.reshape(-1, each, num_classes).sum(axis=1), each


def _draw_bubbles(figure: Any, axes: Any, counts: np.ndarray, most: int) -> None:
    """Areas are in proportion to samples."""
    client, label = np.nonzero(counts)
    held = counts[client, label]
    axes.set_xticks(range(len(counts)))
    axes.set_yticks(range(counts.shape[1]))
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    step = min(box.width / len(counts), box.height / counts.shape[1]) * 72 / figure.dpi
    sizes = np.maximum((_BUBBLE * step) ** 2 * held / most, _DOT)
    axes.scatter(client, label, s=sizes, color="C0", linewidths=0)


def _draw_map(figure: Any, axes: Any, counts: np.ndarray, most: int, each: int) -> None:
    """Colours are by the logarithm of samples; what is not held stays white.

    Args:
      figure: to draw on.
      axes: of the figure.
      counts: `[columns, C]`.
      most: samples of the darkest colour.
      each: how many clients a column stands for.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    image = axes.imshow(
        np.ma.masked_equal(counts.T, 0),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        norm=LogNorm(1, max(most, 2)),
        cmap="viridis_r",
        extent=(-0.5, len(counts) * each - 0.5, -0.5, counts.shape[1] - 0.5),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes, label="samples", format="%d")
