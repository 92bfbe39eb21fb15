"""Do the clients of a net take turns on a TPU, or go together in one vmapped step?

Five clients with equally many samples are compiled in both ways for a chip that is not there. The
way whose training has fewer cycles is the better one, as the TPU's compiler estimates them; if they
are within a fifth of each other, the one that compiles sooner. The table that comes of it is that
which plans go by, `src/protonorm_jax/planning/tpu_forms.json`; rows that are not asked for stay.

    pip install 'protonorm_jax[aot]'
    python -m experiments.bench.tpu_forms [NET ...] [--shapes 8x8x1,32x32x3] [--target v5e:1x1]

Nothing of this has been run on a chip, where it also counts that in turn a step starts five times
as many kernels.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from rich.console import Console

from protonorm_jax import models
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning import targets, tpu_forms
from protonorm_jax.running import ahead
from protonorm_jax.types import Dataset

from .tables import table

NUM_CLIENTS, BATCH_SIZE, NUM_STEPS = 5, 32, 4
NETS = (*models.FAMILIES["tiny"], "fedavg_cnn", *models.FAMILIES["ht0"])
SHAPES = ("8x8x1", "28x28x1", "32x32x3")


def measure(net: str, shape: Sequence[int], target: targets.Target) -> dict[str, Any]:
    """A row of the table.

    Args:
      net: a model.
      shape: of images.
      target: to compile for.
    """
    count = NUM_CLIENTS * BATCH_SIZE * NUM_STEPS * 4 // 3
    images = np.zeros((count, *shape), np.uint8)
    dataset = Dataset(images, np.arange(count, dtype=np.int32) % 10, 10)
    row: dict[str, Any] = {"net": net, "shape": list(shape)}
    for way, vmap_clients in (("in_turn", 1), ("together", NUM_CLIENTS)):
        config = Config(
            method="local",
            family=net,
            num_clients=NUM_CLIENTS,
            partition="iid",
            batch_size=BATCH_SIZE,
            vmap_clients=vmap_clients,
        )
        plan = planning.make([config], dataset, target=target)
        began = time.process_time()
        costs = [one.round for one in ahead.compile_ahead(plan, target) if one.round]
        cycles = sum(one.by_part["training"].cycles for one in costs if "training" in one.by_part)
        row[way] = {
            "kilocycles": round(cycles / 1e3),
            "compile_cpu_seconds": round(time.process_time() - began, 1),
        }
    return row


def _write(rows: Sequence[dict[str, Any]], target: str) -> None:
    """Writes the table, a row a line."""
    made = {
        "target": target,
        "versions": {name: metadata.version(name) for name in ("jax", "libtpu")},
        "num_clients": NUM_CLIENTS,
        "batch_size": BATCH_SIZE,
    }
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    text = f'{{{json.dumps(made)[1:-1]}, "rows": [\n{lines}\n]}}\n'
    tpu_forms.PATH.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes the table after each row, and prints it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.tpu_forms")
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"by default {', '.join(NETS)}")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of images (%(default)s)")
    parser.add_argument("--target", default="v5e:1x1", help="see protonorm compile (%(default)s)")
    parsed = parser.parse_args(arguments)
    target = targets.absent(parsed.target)
    rows = {(one["net"], *one["shape"]): one for one in tpu_forms.read()["rows"]}
    out = Console()
    for net in parsed.nets or NETS:
        for text in parsed.shapes.split(","):
            shape = tuple(int(size) for size in text.split("x"))
            try:
                row = rows[(net, *shape)] = measure(net, shape, target)
            except UsageError as error:  # Such as of a net that takes no images as small.
                out.print(f"left out: {error}")
                continue
            out.print(f"{net} {text}: {row}")
            _write([rows[key] for key in sorted(rows)], parsed.target)
    cells = [
        (
            row["net"],
            "x".join(map(str, row["shape"])),
            *(row[way][name] for name in ("kilocycles", "compile_cpu_seconds") for way in _WAYS),
            "together" if tpu_forms.is_better(*tpu_forms.forms(row)) else "in turn",
        )
        for row in map(rows.get, sorted(rows))
    ]
    columns = "net | images | kilocycles in turn | together | compile CPU s in turn | together | "
    out.print(table(f"{NUM_CLIENTS} clients, {parsed.target}", columns + "better", cells))
    return 0


_WAYS = ("in_turn", "together")

if __name__ == "__main__":
    sys.exit(main())
