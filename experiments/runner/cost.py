"""Times alignment by the number of classes, and writes a table and a picture of it."""

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from experiments import Timing
from experiments.bench import alignment, timing
from protonorm_jax.report import canvas
from protonorm_jax.running import files

TABLE, PICTURE = "timings.csv", "timings.png"


def is_finished(folder: Path) -> bool:
    """Whether it has been timed already."""
    return (folder / TABLE).exists()


def run(asked: Timing, folder: Path) -> list[dict[str, Any]]:
    """Times all ways, and writes what comes of it.

    Args:
      asked: what to time.
      folder: for `timings.csv` and `timings.png`.

    Returns:
      The rows of the table: `classes`, `method`, `milliseconds`, `iterations`, `min_angle` (in
      degrees) and `relative_gap` to the least energy.
    """
    rows = [row for count in asked.counts for row in _measured(count, asked.repetitions)]
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(folder / PICTURE) as file:
            draw(rows, file)
        with files.replacing(folder / TABLE) as file:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            file.write(text.getvalue().encode())
    return rows


def _measured(count: int, repetitions: int) -> list[dict[str, Any]]:
    """A row for each way that so many points can be spread, measured by turns."""
    vectors = alignment.collapsed(count)
    ways = [name for name in alignment.METHODS if name != "simplex" or count <= alignment.DIM + 1]
    prepared = {name: alignment.prepare(name, vectors) for name in ways}
    clocks = {name: functools.partial(alignment.time_prepared, name) for name in ways}
    times = timing.medians(clocks, repetitions)
    return [
        {
            "classes": count,
            "method": name,
            "milliseconds": times[name].wall,
            **{key: prepared[name][key] for key in ("iterations", "min_angle", "relative_gap")},
        }
        for name in ways
    ]


def draw(rows: Sequence[dict[str, Any]], file: BinaryIO) -> None:
    """Draws milliseconds over classes, both on scales of powers of ten, as a PNG."""
    with canvas.drawing(file, figsize=(6, 4)) as figure:
        axes = figure.subplots()
        for name in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == name]
            counts = [row["classes"] for row in own]
            axes.loglog(counts, [row["milliseconds"] for row in own], marker="o", label=name)
        axes.set_xlabel("classes")
        axes.set_ylabel("milliseconds a call")
        axes.grid(alpha=0.3)
        axes.legend()
