"""A sweep that several jobs share: each trains its share of the runs, in one directory.

Each job has a folder of its own in `shards/`, with a lock, the names of its runs, their rows and
checkpoints; the directory of the sweep is locked for moments only. Whoever finds that all runs have
a row puts them into `results.jsonl`, and what is left is what one job would have left.
"""

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices, samples
from protonorm_jax.running import directory as places
from protonorm_jax.running import (
    files,
    forms,
    lock,
    logs,
    reading,
    stopping,
    sweep,
    sweep_plan,
    sweep_record,
)
from protonorm_jax.running.sweep import Display, Part
from protonorm_jax.running.sweep_plan import Sweep
from protonorm_jax.types import Dataset

_SECONDS_OF_PATIENCE = 120.0  # While another job starts or ends.
_TASK = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
_STEP = "SLURM_ARRAY_TASK_STEP"


class Shard(NamedTuple):
    """One of the jobs that share a sweep.

    Attributes:
      number: which one, from 1.
      num_shards: how many there are.
    """

    number: int
    num_shards: int

    def __str__(self) -> str:
        return f"{self.number}/{self.num_shards}"

    def name(self) -> str:
        """That of its folder."""
        return f"{self.number}-of-{self.num_shards}"

    def names(self) -> list[str]:
        """Those of all that share the sweep with it, and its own."""
        return [Shard(number, self.num_shards).name() for number in range(1, self.num_shards + 1)]


class Outcome(NamedTuple):
    """What came of a job's part.

    Attributes:
      rows: of all runs of the sweep that have one, in the order of the runs.
      own: names of the runs that were this job's.
    """

    rows: list[dict[str, Any]]
    own: list[str]

    def missing(self) -> int:
        """How many of its own runs the job was kept from finishing."""
        return len(set(self.own) - {row["run"] for row in self.rows})


def parse(text: str, environ: Mapping[str, str]) -> Shard:
    """What `--shard` says.

    Args:
      text: `I/N`, or `auto` for the variables of a Slurm array.
      environ: the environment.

    Raises:
      UsageError: it is neither, or these variables are not there.
    """
    if text == "auto":
        return _of_slurm(environ)
    found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard must be I/N with 1 <= I <= N, or auto, got {text!r}")
    return Shard(int(found[1]), int(found[2]))


def _of_slurm(environ: Mapping[str, str]) -> Shard:
    """The job's place in a Slurm array."""
    missing = [name for name in _TASK if not environ.get(name, "").isdecimal()]
    if missing:
        raise UsageError(
            f"--shard auto must be within a Slurm array, which sets {', '.join(_TASK)}, got none "
            f"of {', '.join(missing)}"
        )
    task, least, count = (int(environ[name]) for name in _TASK)
    place, rest = divmod(task - least, int(environ.get(_STEP) or 1))
    if rest or not 0 <= place < count:
        raise UsageError(
            f"--shard auto must be in an array with even steps, got task {task} of {count} from "
            f"{least} on"
        )
    return Shard(place + 1, count)


def share(planned: Sweep, shard: Shard) -> list[tuple[int, int]]:
    """What a job is to do, see `sweep.Part.calls`: neighbours, which have programs in common."""
    calls = [
        (number, first)
        for number, one in enumerate(planned.plans)
        for first in range(0, len(one.runs), one.runs_per_program)
    ]
    begin, end = (
        len(calls) * index // shard.num_shards for index in (shard.number - 1, shard.number)
    )
    return calls[begin:end]


def configs(planned: Sweep, shard: Shard) -> list[Config]:
    """The settings of the runs that are a job's."""
    return [
        run.config
        for number, first in share(planned, shard)
        for run in planned.plans[number].runs[first:][: planned.plans[number].runs_per_program]
    ]


def train(
    planned: Sweep,
    directory: Path,
    shard: Shard,
    *,
    display: Display,
    dataset: Dataset | samples.DataSets | None = None,
    log: Sequence[str] | None = None,
) -> Outcome:
    """Trains and records the share of a job that has no result yet.

    The first of the jobs begins the sweep. Where it has begun already, with as many jobs or others,
    the job goes on with what is left of its share.

    Args:
      planned: the sweep, as every job plans it.
      directory: for the results.
      shard: which job.
      display: told of the progress.
      dataset: used instead of loading `Config.data`; or where to get that from.
      log: dashboards that show the runs besides; None for those that the sweep has.

    Raises:
      UsageError: the directory holds something else or another sweep, or a part of it is in use by
        a job that would share it in another way; or see `sweep.train`.
    """
    digests = sweep_plan.data_digests(planned)
    folder, siblings = directory / places.SHARDS / shard.name(), shard.names()

    def begin(locked: Path) -> None:
        with files.writing(locked):
            places.complete(locked)
            places.clean(locked)
        if not (locked / places.SWEEP).exists():
            places.check_free(locked, overwrite=False)
            sweep_record.start_sweep(
                locked, sweep_plan.to_record(planned, digests), replacing=False
            )
        else:
            _check_same(planned, locked)
        sweep_record.repair_results(locked)

    with contextlib.ExitStack() as stack, stopping.StopRequest() as stop:
        with lock.holding(directory, check=begin, beside=siblings, patience=_SECONDS_OF_PATIENCE):
            recorded = sweep_plan.resume(
                directory, num_devices=planned.base.devices, dataset=dataset
            )
            calls = share(recorded, shard)
            own = [name for call in calls for name in _names(recorded, *call)]
            runs = [directory / places.RUNS / name for name in own]
            stack.enter_context(lock.holding(folder, covers=runs))
            names = logs.asked(directory, log)
            session = None
            if devices.is_first():
                session = logs.begin(directory, names, goes_on=True)
                sweep_record.start_share(folder, own)
        left = [one for one in places.shards(directory) if one.name not in siblings]
        part = Part(directory, folder, [directory, *left], calls)
        rows = sweep.train_calls(recorded, part, digests, display, stop, session=session)
    done = {row["run"] for row in rows}
    if done.issuperset(own):
        rows = _gather(directory, siblings, len(planned.changes))
    return Outcome(rows, own)


def _names(planned: Sweep, number: int, first: int) -> list[str]:
    """Those of the runs of one call."""
    group = planned.groups[number]
    runs = group[first : first + planned.plans[number].runs_per_program]
    return [sweep_plan.run_name(run) for run in runs]


def _check_same(planned: Sweep, directory: Path) -> None:
    """Refuses to share a sweep that is another one than the recorded one.

    Raises:
      UsageError: names what differs.
    """
    described = reading.read(directory / places.SWEEP, forms.sweep)
    base, changes = sweep_plan.settled(described, described["runs"], planned.base.devices)
    for name, then in base.to_dict().items():
        now = planned.base.to_dict()[name]
        if then != now:
            raise UsageError(
                f"Config.{name} must be {then!r} as in the sweep in {str(directory)!r}, got {now!r}"
            )
    if changes != planned.changes:
        raise UsageError(
            f"--grid and --seeds must be those of the sweep in {str(directory)!r}, got "
            f"{len(planned.changes)} runs where it has {len(changes)}, or others"
        )


def _gather(directory: Path, siblings: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Puts the rows together if all are there; returns those that are there."""

    gather = functools.partial(sweep_record.gather_results, count=count)
    with lock.holding(directory, check=gather, beside=siblings, patience=_SECONDS_OF_PATIENCE):
        return reading.read_results(directory)
