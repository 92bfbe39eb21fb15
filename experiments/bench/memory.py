"""The memory that is expected before anything is compiled, against what compiled programs need.

Each program has a process of its own, and none is run. Those for a TPU that is not there take the
package libtpu; without it they are left out. The constants of `planning/memory.py` were chosen by
these tables; where the engine or the compiler has changed, look at them again.

    python -m experiments.bench --only memory
    python -m experiments.bench.memory [--seed 0] [--drawn 20]   # of the drawn ones alone
"""

import argparse
import importlib.util
import math
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from protonorm_jax import methods, models
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning import targets
from protonorm_jax.running import programs
from protonorm_jax.types import Dataset

from . import harness, processes
from .tables import table, values

NUM_CLIENTS = 20
PAPER_SAMPLES = 60_000
TARGETS = (targets.HERE, "v5e:1x1")
FEDAVG_FAMILY = "cnn"  # It needs clients of one architecture.
DRAWN = {
    "family": ("mlp", "cnn", "mlp,cnn", "tiny_resnet", "fedavg_cnn"),
    "data": ("digits", "mnist", "cifar"),
    "num_samples": (20_000, 60_000),
    "num_runs": (1, 2, 4, 8, 16, 32, 64),
    "vmap_runs": (0, 0, 0, 4),
    "vmap_clients": (1, 1, 0),
    "num_clients": (1, 2, 5, 10, 20, 50, 100, 200),
    "batch_size": (8, 10, 32, 64, 128, 256),
    "participation": (1.0, 0.5, 0.1),
    "alpha": (1.0,),  # With which 200 clients can be dealt 20,000 samples.
}
"""What drawn programs have, each value as likely as another; the method is any."""

_WITHOUT = ("refused", "failed")
"""What a row without figures has in their place."""


class Case(NamedTuple):
    """A program.

    Attributes:
      target: chips to compile it for, or `here`.
      method: as in `Config`.
      family: of models.
      data: a key of `harness.SHAPES`: random images of that shape; but `digits` are as they are
        where `num_samples` is 0.
      num_samples: how many images.
      num_runs: in the program.
      vmap_runs: as in `planning.plan.make`.
      vmap_clients: as in `Config`, and so the rest.
      num_clients: of each run.
      batch_size: of a step.
      participation: of the clients in a round.
      alpha: of the partition.
    """

    target: str
    method: str
    family: str
    data: str = "digits"
    num_samples: int = 0
    num_runs: int = 1
    vmap_runs: int = 0
    vmap_clients: int = 0
    num_clients: int = NUM_CLIENTS
    batch_size: int = 32
    participation: float = 1.0
    alpha: float = 0.1

    def __str__(self) -> str:
        own = [self.target, self.method, self.family]
        own += [f"{self.num_runs} run{'s'[: self.num_runs > 1]}"]
        own += [f"{self.num_samples:,} {self.data}"] if self.num_samples else []
        for name in (
            "vmap_runs",
            "vmap_clients",
            "num_clients",
            "batch_size",
            "participation",
            "alpha",
        ):
            if getattr(self, name) != self._field_defaults[name]:
                own.append(f"{name} {getattr(self, name)}")
        return ", ".join(own)


def measure(
    *,
    target_names: Sequence[str] = TARGETS,
    family: str = "tiny",
    names: Sequence[str] = tuple(methods.METHODS),
    of_many: Sequence[str] = ("protonorm", "fml"),
    run_counts: Sequence[int] = (8, 64),
    of_paper: Sequence[str] = ("protonorm", "fedtgp", "fml"),
    num_drawn: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of every program.

    Args:
      target_names: what to compile for.
      family: of models, on digits.
      names: of the methods, each with one run.
      of_many: of those that several runs are compiled of, too.
      run_counts: how many runs.
      of_paper: methods of the paper's family and as many images as CIFAR-10 has.
      num_drawn: for a TPU, so many programs of small nets beside these, of what `DRAWN` has.
      seed: of what is drawn.
    """
    rows: list[dict[str, Any]] = []
    for target in target_names:
        if target != targets.HERE and importlib.util.find_spec("libtpu") is None:
            continue
        cases = [
            Case(target, name, FEDAVG_FAMILY if name == "fedavg" else family) for name in names
        ]
        cases += [
            Case(target, name, family, num_runs=count) for name in of_many for count in run_counts
        ]
        cases += [Case(target, name, "ht0", "cifar", PAPER_SAMPLES) for name in of_paper]
        rows += map(_measured, cases)
        if target != targets.HERE:
            rows += _accepted(drawn(target, seed), num_drawn)
    return {"programs": rows}


def drawn(target: str, seed: int) -> Iterator[Case]:
    """Programs without end, each drawn from what there may be."""
    generator = random.Random(seed)
    while True:
        own = {name: generator.choice(values) for name, values in DRAWN.items()}
        method = generator.choice(list(methods.METHODS))
        one_net = len(models.family(own["family"])) == 1
        too_small = own["family"] == "fedavg_cnn" and own["data"] == "digits"
        if not too_small and (one_net or method != "fedavg"):
            yield Case(target, method, **own)


def _accepted(cases: Iterator[Case], count: int) -> Iterator[dict[str, Any]]:
    """The figures of cases until the plans of so many have been accepted."""
    while count > 0:
        row = _measured(next(cases))
        count -= "refused" not in row
        yield row


def _measured(case: Case) -> dict[str, Any]:
    """The figures of a program, made in a process of its own."""
    with processes.child(one_core=False) as call:
        return call(compile_case, case)


def compile_case(case: Case) -> dict[str, Any]:
    """Plans and compiles, and returns both amounts with their parts.

    Of a plan that is refused `refused` alone, the reason; of a program that the compiler does not
    take, `failed`.
    """
    target = None
    if case.target == targets.HERE:
        targets.leave_out_absent()
    else:
        target = targets.absent(case.target)
    config = Config(
        method=case.method,
        family=case.family,
        vmap_clients=case.vmap_clients,
        num_clients=case.num_clients,
        batch_size=case.batch_size,
        participation=case.participation,
        alpha=case.alpha,
        devices=1,
    )
    dataset = None
    if case.num_samples:
        images, labels = harness.random_samples(case.num_samples, case.data)
        dataset = Dataset(images, labels, harness.NUM_CLASSES, "random")
    try:
        plan = planning.make(
            [config.replace(seed=seed) for seed in range(case.num_runs)],
            dataset,
            runs_per_program=case.num_runs,
            vmap_runs=case.vmap_runs,
            target=target,
        )
    except UsageError as error:
        return {"program": str(case), "refused": str(error)}
    try:
        needed = programs.compile_all(plan, programs.told_shapes(plan)).needed
    except jax.errors.JaxRuntimeError as error:
        return {"program": str(case), "failed": str(error).splitlines()[0]}
    expected = plan.memory
    return {
        "program": str(case),
        "expected": {**expected._asdict(), "total": expected.total()},
        "needed": {**needed._asdict(), "total": needed.total()},
        "ratio": expected.total() / needed.total(),
        "code_ratio": expected.code / needed.code if needed.code else None,
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    parts = ("samples", "states", "uploads", "work", "code", "total")
    found = ("arguments", "results", "temporaries", "code", "total")
    rows = [row for row in figures["programs"] if "needed" in row]
    ratios = [row["ratio"] for row in rows] or [math.nan]
    made = [
        table(
            "Memory expected before compiling, MiB on one device",
            "program | " + " | ".join(f"{name}:.1fM" for name in parts),
            [
                values(row, "program " + " ".join(f"expected.{name}" for name in parts))
                for row in rows
            ],
        ),
        table(
            "Memory that the compiled programs need, MiB on one device",
            "program | "
            + " | ".join(f"{name}:.1fM" for name in found)
            + " | ratio:.2f | of code:.2f",
            [
                values(
                    row,
                    "program " + " ".join(f"needed.{name}" for name in found) + " ratio code_ratio",
                )
                for row in rows
            ],
            f"ratio: of what is expected to that, from {min(ratios):.2f} to {max(ratios):.2f}\n"
            "wanted: from 0.8 to 1.25",
        ),
    ]
    others = [row for row in figures["programs"] if "needed" not in row]
    if others:
        lines = [
            (row["program"], *next((k, row[k]) for k in _WITHOUT if k in row)) for row in others
        ]
        made.append(table("Plans refused, and programs not taken", "program | what | why", lines))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles drawn programs, and prints the tables; returns 1 if one of them does not compile."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.memory")
    parser.add_argument("--drawn", type=int, default=20, help="so many accepted (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    parsed = parser.parse_args(arguments)
    rows = list(_accepted(drawn(TARGETS[1], parsed.seed), parsed.drawn))
    for one in tables({"programs": rows}):
        Console(width=None if Console().is_terminal else 160).print(one)
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
