"""The memory that is expected before anything is compiled, against what compiled programs need.

Each program has a process of its own, and none is run. Those for a TPU that is not there take the
package libtpu; without it they are left out. The constants of `planning/memory.py` were chosen by
these tables; where the engine or the compiler has changed, look at them again.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table

from protonorm_jax import methods
from protonorm_jax.config import Config
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


class Case(NamedTuple):
    """A program.

    Attributes:
      target: chips to compile it for, or `here`.
      method: as in `Config`.
      family: of models.
      data: `digits`, or `cifar` for random images of that shape.
      num_runs: in the program.
    """

    target: str
    method: str
    family: str
    data: str = "digits"
    num_runs: int = 1

    def __str__(self) -> str:
        runs = "1 run" if self.num_runs == 1 else f"{self.num_runs} runs"
        return f"{self.target}, {self.method}, {self.family}, {runs}"


def measure(
    *,
    target_names: Sequence[str] = TARGETS,
    family: str = "tiny",
    names: Sequence[str] = tuple(methods.METHODS),
    of_many: Sequence[str] = ("protonorm", "fml"),
    run_counts: Sequence[int] = (8, 64),
    of_paper: Sequence[str] = ("protonorm", "fedtgp", "fml"),
) -> dict[str, Any]:
    """The figures of every program.

    Args:
      target_names: what to compile for.
      family: of models, on digits.
      names: of the methods, each with one run.
      of_many: of those that several runs are compiled of, too.
      run_counts: how many runs.
      of_paper: methods of the paper's family and as many images as CIFAR-10 has.
    """
    rows = []
    for target in target_names:
        if target != targets.HERE and importlib.util.find_spec("libtpu") is None:
            continue
        cases = [
            Case(target, name, FEDAVG_FAMILY if name == "fedavg" else family) for name in names
        ]
        cases += [
            Case(target, name, family, num_runs=count) for name in of_many for count in run_counts
        ]
        cases += [Case(target, name, "ht0", "cifar") for name in of_paper]
        for case in cases:
            with processes.child(one_core=False) as call:
                rows.append(call(compile_case, case))
    return {"programs": rows}


def compile_case(case: Case) -> dict[str, Any]:
    """Plans and compiles, and returns both amounts with their parts."""
    target = None
    if case.target == targets.HERE:
        targets.leave_out_absent()
    else:
        target = targets.absent(case.target)
    config = Config(method=case.method, family=case.family, num_clients=NUM_CLIENTS, devices=1)
    dataset = None
    if case.data != "digits":
        images, labels = harness.random_samples(PAPER_SAMPLES, case.data)
        dataset = Dataset(images, labels, harness.NUM_CLASSES, "random")
    plan = planning.make(
        [config.replace(seed=seed) for seed in range(case.num_runs)],
        dataset,
        runs_per_program=case.num_runs,
        target=target,
    )
    needed = programs.compile_all(plan, programs.told_shapes(plan)).needed
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
    rows = figures["programs"]
    ratios = [row["ratio"] for row in rows]
    return [
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
