"""Many runs: grids and seeds, those that share a program trained together, one row for each."""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from protonorm_jax import dashboards
from protonorm_jax.config import Config
from protonorm_jax.planning import devices
from protonorm_jax.running import (
    checkpoint,
    driver,
    files,
    job,
    lock,
    logs,
    reading,
    record,
    stopping,
    sweep_plan,
    sweep_record,
    training,
)
from protonorm_jax.running import directory as places
from protonorm_jax.running.grid import Grid
from protonorm_jax.running.grid import expand as expand
from protonorm_jax.running.grid import read_grid as read_grid
from protonorm_jax.running.sweep_plan import Sweep as Sweep
from protonorm_jax.running.sweep_plan import plan as plan
from protonorm_jax.running.sweep_plan import resume as resume
from protonorm_jax.types import Dataset


class Display(training.Display, Protocol):
    """What is told of the progress of a sweep."""

    def start_call(self, num_runs: int, round_index: int) -> None:
        """So many runs train together now, from this round on."""

    def finish_call(self, num_runs: int, rounds: int) -> None:
        """So many runs are finished, now or by an earlier process."""


def run(
    base: Config,
    grid: Grid | Sequence[Grid],
    directory: str | Path,
    *,
    seeds: int = 1,
    dataset: Dataset | None = None,
    runs_per_program: int = 0,
    vmap_runs: int = 0,
    overwrite: bool = False,
    display: Display | None = None,
    log: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Trains and records all runs of a grid.

    Args:
      base: the settings that runs have unless the grid says otherwise.
      grid: values by name of a setting; or several such grids, one after the other.
      directory: for the results.
      seeds: how many runs for each point of the grid, with seeds from `base.seed` on.
      dataset: used instead of loading `Config.data`.
      runs_per_program: see `plan.make`.
      vmap_runs: see `plan.make`.
      overwrite: replace what is in the directory.
      display: told of the progress.
      log: dashboards that show the runs besides, of `dashboards.NAMES`.

    Returns:
      The rows of `results.jsonl`, in the order of the grid.

    Raises:
      UsageError: settings that cannot be used, too little memory, or a directory that is in use,
        not empty, or cannot be written.
    """
    check = functools.partial(places.check_free, overwrite=overwrite)
    logs.check(Path(directory), log)
    with lock.holding(Path(directory), check=check) as locked, stopping.StopRequest():
        planned = plan(
            base,
            expand(base, grid, seeds),
            dataset,
            runs_per_program=runs_per_program,
            vmap_runs=vmap_runs,
        )
        return train(planned, locked, display=display, log=log)


def train(
    sweep: Sweep,
    directory: Path,
    *,
    display: Display | None = None,
    resumed: bool = False,
    within: bool = False,
    compiled: driver.Simulation | None = None,
    log: Sequence[str] | None = None,
    session: dashboards.Session | None = None,
) -> list[dict[str, Any]]:
    """Trains and records all runs of a planned sweep that have no result yet.

    What another run or sweep has left in the directory is replaced as soon as the first program
    has compiled.

    Args:
      sweep: what was planned.
      directory: for the results.
      display: told of the progress.
      resumed: keep the results and the checkpoint that are there.
      within: whether the sweep is a part of the experiment that has the directory, and so replaces
        nothing.
      compiled: the first program of a new sweep, if it is there already.
      log: dashboards that show the runs besides; None for those that the sweep had.
      session: the open dashboards of the experiment, if the sweep is within one.

    Returns:
      The rows of `results.jsonl`, in the order of the runs; without those that SIGTERM has kept
      from finishing.

    Raises:
      UsageError: the directory is in use, holds something else, or cannot be written, too little
        memory, or a checkpoint that cannot be used.
    """
    display = display or _Silent()
    replaces = functools.partial(places.check_free, overwrite=True)
    check = job.recover if resumed or within else replaces
    with lock.holding(directory, check=check), stopping.StopRequest() as stop:
        digests = sweep_plan.data_digests(sweep)
        names = () if session else logs.asked(directory, log if resumed else log or ())
        ready = None
        if not resumed:
            ready, session = _begin(
                *(sweep, directory, digests, within, compiled),
                open_session=lambda: session or logs.begin(directory, names),
            )
        elif devices.is_first():
            session = session or logs.begin(directory, names, goes_on=True)
        part = Part(directory, directory, before=list(places.shards(directory)))
        rows = train_calls(sweep, part, digests, display, stop, ready, session)
        if part.before and devices.is_first():
            sweep_record.gather_results(directory, len(sweep.changes))
        return rows


class Part(NamedTuple):
    """What one process has to do of a sweep.

    Attributes:
      directory: of the sweep.
      folder: for rows and checkpoints of this process.
      before: other folders in which earlier processes may have left checkpoints.
      calls: of programs, what is to be done: the number of the program, and the index of the first
        of the runs that train together; None for all.
    """

    directory: Path
    folder: Path
    before: Sequence[Path] = ()
    calls: Collection[tuple[int, int]] | None = None


def train_calls(
    sweep: Sweep,
    part: Part,
    digests: Sequence[str],
    display: Display,
    stop: stopping.StopRequest,
    simulation: driver.Simulation | None = None,
    session: dashboards.Session | None = None,
) -> list[dict[str, Any]]:
    """Trains and records the runs of a part of a sweep that have no result yet.

    Its directories are locked, and say what the sweep is.

    Args:
      sweep: what was planned.
      part: what to do of it.
      digests: of its data, see `sweep_plan.data_digests`.
      display: told of the progress.
      stop: looked at between calls of a program.
      simulation: of a sweep that is new, the first program, compiled.
      session: dashboards; None in processes that do not write.

    Returns:
      The rows of all runs that have one, in the order of the runs.

    Raises:
      UsageError: see `train`.
    """
    results: dict[str, dict[str, Any]] = {}
    saved: list[checkpoint.Saved] = []
    if simulation is None:
        if devices.is_first():
            sweep_record.repair_results(part.folder)
        results = {row["run"]: row for row in reading.read_results(part.directory)}
        found = [
            checkpoint.latest(one, sweep_plan.configs(sweep)) for one in (part.folder, *part.before)
        ]
        saved = [one for one in found if one]
    for number, digest in enumerate(digests):
        group = _Group(sweep, number, part, digest, session)
        if not _train_group(group, simulation, results, display, stop, saved):
            break
        simulation = None
    return [results[name] for name in sorted(results, key=int)]


class _Group(NamedTuple):
    """The runs of one program.

    Attributes:
      sweep: whose.
      number: of the program.
      part: what to do of the sweep.
      data_digest: of the data.
      session: dashboards; None in processes that do not write.
    """

    sweep: Sweep
    number: int
    part: Part
    data_digest: str
    session: dashboards.Session | None

    def calls(self) -> Iterator[range]:
        """The indices of the runs that train together, call by call, as far as they are to do."""
        planned = self.sweep.plans[self.number]
        size, count = planned.runs_per_program, len(planned.runs)
        for first in range(0, count, size):
            if self.part.calls is None or (self.number, first) in self.part.calls:
                yield range(first, min(first + size, count))


def _begin(
    sweep: Sweep,
    directory: Path,
    digests: Sequence[str],
    within: bool,
    compiled: driver.Simulation | None,
    open_session: Callable[[], dashboards.Session],
) -> tuple[driver.Simulation, dashboards.Session | None]:
    """Compiles the first program of a sweep, and says in the directory what the sweep is.

    At once, that it can be resumed; but where another one is to be replaced, not before it is
    certain that this one runs.

    Returns:
      The program, and the dashboards, in the process that writes.
    """
    first = devices.is_first()
    new = first and (within or places.is_empty(directory))
    described = sweep_plan.to_record(sweep, digests) if first else {}
    session = None
    if new:
        sweep_record.start_sweep(directory, described, replacing=False)
        session = open_session()
    try:
        simulation = compiled or driver.compile_plan(sweep.plans[0])
    except BaseException:
        if new:
            places.remove_sweep(directory)
        raise
    if first and not new:
        sweep_record.start_sweep(directory, described, replacing=True)
        session = open_session()
    return simulation, session


def _train_group(
    group: _Group,
    simulation: driver.Simulation | None,
    results: dict[str, dict[str, Any]],
    display: Display,
    stop: stopping.StopRequest,
    saved: Sequence[checkpoint.Saved],
) -> bool:
    """Trains the runs of one program, and adds to `results`; false if told to stop.

    Args:
      group: what to train.
      simulation: the program, if it is compiled already.
      results: by name of a run.
      display: told of the progress.
      stop: looked at after every call of the program.
      saved: where to go on.
    """
    sweep, number, part, digest, session = group
    planned, names = sweep.plans[number], [sweep_plan.run_name(run) for run in sweep.groups[number]]
    rounds = planned.program.config.rounds
    if simulation is not None:
        display.start(simulation)

    def finished(index: int, summary: dict[str, Any]) -> None:
        if summary["status"] == "stopped":
            return
        row = {
            "run": names[index],
            "config_digest": planned.runs[index].config.digest(),
            **sweep.changes[sweep.groups[number][index]],
            **summary,
        }
        if devices.is_first() and names[index] not in results:
            lock.check(part.folder)
            files.append_line(part.folder / places.RESULTS, row)
        results[names[index]] = row

    for indices in group.calls():
        first = indices.start
        if devices.agree(all(names[index] in results for index in indices)):
            display.finish_call(len(indices), rounds)
            continue
        here = next((one for one in saved if (one.group, one.first) == (number, first)), None)
        if devices.agree(stop.asked_within(0.0 if simulation else stop.longest_compilation)):
            return False
        if simulation is None:
            simulation = driver.compile_plan(planned)
            display.start(simulation)
            stop.longest_compilation = max(stop.longest_compilation, simulation.compile_seconds)
        recorders = {}
        if devices.is_first():
            if here is None:  # What is there is of runs that were finished just before a kill.
                checkpoint.clear(part.folder)
            for index in indices:
                folder = part.directory / places.RUNS / names[index]
                recorders[index] = record.Recorder(folder, planned, index, digest)
                rows = here.rows[index - first] if here else []
                kept = here.kept[index - first] if here and here.kept else None
                recorders[index].start(simulation, rows, kept)
                if session:
                    swept = sweep.changes[sweep.groups[number][index]]
                    config = planned.runs[index].config
                    log = logs.run_of_sweep(session, part.directory, names[index], config, swept)
                    recorders[index].log_to(log)
        display.start_call(len(indices), here.round_index if here else 0)
        with (
            training.finishing(recorders, pictures=False),
            checkpoint.Keeper(part.folder, number, digest) as keeper,
        ):
            summaries = training.train(
                *(simulation, first, recorders, keeper, stop, display, here),
                pictures=False,
                finished=finished,
            )
            if any(summary["status"] == "stopped" for summary in summaries.values()):
                return False
            keeper.clear()
            for recorder in recorders.values():
                recorder.forget_checkpoints()
        display.finish_call(len(indices), rounds)
    return True


class _Silent:
    """Shows nothing."""

    def start(self, simulation: driver.Simulation, round_index: int = 0) -> None:
        pass

    def add(self, step: driver.Step) -> None:
        pass

    def start_call(self, num_runs: int, round_index: int) -> None:
        pass

    def finish_call(self, num_runs: int, rounds: int) -> None:
        pass
