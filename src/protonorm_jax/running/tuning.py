"""Tuning at equal cost: a sweep of what is tried, a choice by validation, a sweep of what counts.

`tuning.json` says all that is tried, and is there before the first run. The tuning runs are a sweep
in `tuning/`, and what they lead to is in `choices.json`. The runs at the chosen settings, with
seeds that no choice has seen, are a sweep in the directory itself.
"""

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from protonorm_jax import dashboards
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices, samples
from protonorm_jax.planning.targets import Target
from protonorm_jax.running import (
    choices,
    conditions,
    driver,
    forms,
    job,
    lock,
    logs,
    points,
    reading,
    stopping,
    sweep,
    sweep_plan,
    sweep_record,
)
from protonorm_jax.running import directory as places
from protonorm_jax.running.grid import Grid, changed
from protonorm_jax.running.points import LEARNING_RATES, Budget, Cell, Trials
from protonorm_jax.running.sweep_plan import Sweep
from protonorm_jax.types import Dataset


class Experiment(NamedTuple):
    """A planned experiment.

    Attributes:
      base: the settings that runs have unless they say otherwise.
      trials: what is tried.
      description: what `tuning.json` holds.
      tuning: the sweep of the tuning runs; None if it is over.
      choices: what has been chosen; None before that.
      final: the sweep of the final runs, before the choice at the first point of each cell.
      sets: the data.
    """

    base: Config
    trials: Trials
    description: dict[str, Any]
    tuning: Sweep | None
    choices: list[dict[str, Any]] | None
    final: Sweep
    sets: samples.DataSets


class Outcome(NamedTuple):
    """What has come of an experiment.

    Attributes:
      choices: see `choices.choose`; None if the tuning is not over.
      rows: of `results.jsonl` of the final runs, in their order.
      missing: how many runs, of both kinds, SIGTERM has kept from finishing.
    """

    choices: list[dict[str, Any]] | None
    rows: list[dict[str, Any]]
    missing: int


class Display(Protocol):
    """What is told of the progress of an experiment."""

    def tuning(self, planned: Sweep) -> AbstractContextManager[sweep.Display]:
        """The tuning runs begin, or go on."""

    def final(self, planned: Sweep) -> AbstractContextManager[sweep.Display]:
        """The final runs begin, or go on."""


def plan(
    base: Config,
    grid: Grid | Sequence[Grid],
    budget: Budget,
    *,
    seeds: int = 1,
    given: Collection[str] = (),
    dataset: Dataset | None = None,
    runs_per_program: int = 0,
    vmap_runs: int = 0,
    target: Target | None = None,
) -> Experiment:
    """Draws what is tried, and plans both sweeps.

    Args:
      base: the settings that runs have unless the grid says otherwise.
      grid: values by name of a setting; or several such grids, one after the other. Each of its
        points is tuned by itself.
      budget: what each of them is given.
      seeds: how many runs at the chosen settings, with seeds from `base.seed` on.
      given: settings of the method that are not tuned; those that do not have their default are not
        either.
      dataset: used instead of loading `Config.data`.
      runs_per_program: see `planning.plan.make`.
      vmap_runs: see `planning.plan.make`.
      target: see `planning.plan.make`.

    Raises:
      UsageError: settings that cannot be used, or too little memory.
    """
    trials = points.draw(base, grid, budget, seeds=seeds, given=given)
    sets = samples.DataSets(dataset)
    sizes = {"runs_per_program": runs_per_program, "vmap_runs": vmap_runs}
    tuning = sweep_plan.plan(trials.base(base), trials.changes(), sets, target=target, **sizes)
    description = {
        "format": 1,
        "tune": budget.points,
        "seeds": trials.seeds,
        "rounds": trials.rounds,
        "final_seeds": trials.final_seeds,
        "learning_rates": trials.learning_rates,
        "cells": [cell._asdict() for cell in trials.cells],
        **sweep_plan.origin(base, [cell.changes for cell in trials.cells]),
        **sizes,
        "data_digests": _digests_by_cell(tuning, trials),
    }
    first = [cell.points[0] for cell in trials.cells]
    final = _plan_final(base, trials, first, sets, sizes, target)
    return Experiment(base, trials, description, tuning, None, final, sets)


def run(
    base: Config,
    grid: Grid | Sequence[Grid],
    directory: str | Path,
    *,
    tune: int,
    tune_seeds: int = 1,
    tune_rounds: int = 0,
    learning_rates: tuple[float, float] = LEARNING_RATES,
    seeds: int = 1,
    given: Collection[str] = (),
    dataset: Dataset | None = None,
    runs_per_program: int = 0,
    vmap_runs: int = 0,
    overwrite: bool = False,
    display: Display | None = None,
    log: Sequence[str] = (),
) -> Outcome:
    """Tunes every point of a grid at equal cost, and trains at the settings that were chosen.

    Args:
      base: the settings that runs have unless the grid says otherwise, with a
        `validation_fraction`.
      grid: values by name of a setting; or several such grids, one after the other.
      directory: for the results.
      tune: how many settings are tried for each point of the grid.
      tune_seeds: how many runs each of them gets.
      tune_rounds: of these runs; 0 for as many as the final ones have.
      learning_rates: the lowest and the highest.
      seeds: how many runs at the chosen settings, with seeds from `base.seed` on.
      given: see `plan`.
      dataset: used instead of loading `Config.data`.
      runs_per_program: see `planning.plan.make`.
      vmap_runs: see `planning.plan.make`.
      overwrite: replace what is in the directory.
      display: told of the progress.
      log: dashboards that show the runs besides, of `dashboards.NAMES`.

    Raises:
      UsageError: settings that cannot be used, too little memory, or a directory that is in use,
        not empty, or cannot be written.
    """
    budget = Budget(tune, tune_seeds, tune_rounds, *learning_rates)
    check = functools.partial(check_free, overwrite=overwrite)
    logs.check(Path(directory), log)
    with lock.holding(Path(directory), check=check) as locked, stopping.StopRequest():
        experiment = plan(
            base,
            grid,
            budget,
            seeds=seeds,
            given=given,
            dataset=dataset,
            runs_per_program=runs_per_program,
            vmap_runs=vmap_runs,
        )
        return train(experiment, locked, display=display, log=log)


def check_free(directory: Path, *, overwrite: bool) -> None:
    """Refuses a directory that holds something that may not be replaced by an experiment.

    Args:
      directory: for results.
      overwrite: whether earlier results may be replaced.

    Raises:
      UsageError: there is something, and it is not to be replaced or no result of ours; or it is a
        file.
    """
    places.check_free(directory, overwrite=overwrite)
    inner = directory / places.TRIALS
    free = not inner.exists() or (inner.is_dir() and places.is_empty(inner))
    if not free and not places.is_tuned(directory):
        raise UsageError(
            f"--out must hold no {places.TRIALS!r} but a tuned experiment's, got {str(inner)!r}"
        )


def train(
    experiment: Experiment,
    directory: Path,
    *,
    display: Display | None = None,
    resumed: bool = False,
    log: Sequence[str] | None = None,
) -> Outcome:
    """Trains and records all runs of an experiment that have no result yet.

    What another run, sweep or experiment has left in the directory is replaced as soon as the first
    program has compiled.

    Args:
      experiment: what was planned.
      directory: for the results.
      display: told of the progress.
      resumed: go on with what is there.
      log: dashboards that show the runs besides; None for those that the experiment had.

    Raises:
      UsageError: the directory is in use, holds something else, or cannot be written, too little
        memory, or a checkpoint that cannot be used.
    """
    show = display or _Silent()
    check = job.recover if resumed else functools.partial(check_free, overwrite=True)
    with lock.holding(directory, check=check), stopping.StopRequest() as stop:
        count = len(experiment.trials.final_seeds) * len(experiment.trials.cells)
        chosen, final, begun = experiment.choices, experiment.final, False
        names = logs.asked(directory, log if resumed else log or ())
        compiled = session = None
        if not resumed:
            compiled, session = _begin(experiment, directory, names)
        elif devices.is_first():
            session = logs.begin(directory, names, goes_on=True)
        if chosen is None:
            assert experiment.tuning is not None, "neither tuned nor to be tuned"
            rows = _tune(experiment.tuning, directory, show, compiled, session)
            missing = len(experiment.tuning.changes) - len(rows)
            if missing:
                return Outcome(None, [], missing + count)
            chosen = _choose(experiment, experiment.tuning, rows)
            if devices.is_first():
                sweep_record.write_choices(directory, chosen)
            final = _plan_final(
                experiment.base,
                experiment.trials,
                [one["point"] for one in chosen],
                experiment.sets,
                _sizes(experiment.description),
            )
        else:
            begun = bool(devices.agree((directory / places.SWEEP).exists()))
        if devices.agree(stop.asked):
            return Outcome(chosen, [], count)
        with show.final(final) as shown:
            rows = sweep.train(
                *(final, directory), display=shown, resumed=begun, within=True, session=session
            )
        return Outcome(chosen, rows, count - len(rows))


def _tune(
    tuning: Sweep,
    directory: Path,
    show: Display,
    compiled: driver.Simulation | None,
    session: dashboards.Session | None,
) -> list[dict[str, Any]]:
    """Trains the tuning runs, and returns their rows; fewer than there are runs if told to stop.

    Args:
      tuning: the sweep of these runs.
      directory: of the experiment.
      show: told of the progress.
      compiled: the first program; None of an experiment that goes on.
      session: dashboards; None in processes that do not write.
    """
    inner = directory / places.TRIALS
    begun = compiled is None and bool(devices.agree((inner / places.SWEEP).exists()))
    with show.tuning(tuning) as shown:
        return sweep.train(
            *(tuning, inner),
            display=shown,
            resumed=begun,
            within=True,
            compiled=compiled,
            session=session,
        )


def _begin(
    experiment: Experiment, directory: Path, log: Sequence[str]
) -> tuple[driver.Simulation, dashboards.Session | None]:
    """Compiles the first program, and says in the directory what the experiment is.

    At once, that it can be resumed; but where something else is to be replaced, not before it is
    certain that this one runs.

    Returns:
      The program, and the dashboards, in the process that writes.
    """
    assert experiment.tuning is not None, "tuned already"
    first = devices.is_first()
    new = first and places.is_empty(directory)
    session = None
    if new:
        sweep_record.start_tuning(directory, experiment.description, replacing=False)
        session = logs.begin(directory, log)
    try:
        simulation = driver.compile_plan(experiment.tuning.plans[0])
    except BaseException:
        if new:
            places.remove_tuning(directory)
        raise
    if first and not new:
        sweep_record.start_tuning(directory, experiment.description, replacing=True)
        session = logs.begin(directory, log)
    return simulation, session


def _choose(
    experiment: Experiment, tuning: Sweep, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What is chosen, the same in all processes: those that do not write know no accuracies."""
    found = choices.choose(experiment.trials, rows, seconds_of_each(tuning, rows))
    for cell, one in zip(experiment.trials.cells, found, strict=True):
        one["chosen"] = devices.agree(one["chosen"])
        one["point"] = cell.points[one["chosen"]]
    return found


def seconds_of_each(planned: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The seconds of training that each run took: of runs side by side, each its equal part."""
    together = [1] * len(rows)
    for one, group in zip(planned.plans, planned.groups, strict=True):
        size = one.runs_per_program
        for first in range(0, len(group), size):
            for number in group[first : first + size]:
                together[number] = len(group[first : first + size])
    return [row.get("seconds", 0.0) / count for row, count in zip(rows, together, strict=True)]


def resume(
    directory: Path,
    *,
    num_devices: int | None = None,
    dataset: Dataset | None = None,
) -> Experiment:
    """Plans the rest of a recorded experiment; `train` it with `resumed`.

    Args:
      directory: of the experiment.
      num_devices: `Config.devices` from now on; None leaves it as it was.
      dataset: used instead of loading `Config.data`.

    Raises:
      UsageError: there is no experiment, or data or flags of jax are not as they were.
    """
    described = reading.read(directory / places.TUNING, forms.tuning)
    sweep_plan.check_origin(described, directory)
    base, trials = read_trials(described, num_devices)
    found = reading.read_choices(directory) or None
    if found is not None and len(found) != len(trials.cells):
        raise UsageError(
            f"choices.json must have a choice for each of {len(trials.cells)} cells, got "
            f"{len(found)} in {str(directory)!r}"
        )
    sets, sizes = samples.DataSets(dataset), _sizes(described)
    known = described["data_digests"]
    config = changed(base, {**trials.cells[0].changes, "seed": trials.seeds[0]})
    tuning = None
    with conditions.blaming_data(known[0], config, dataset, directory):
        if found is None:
            inner = directory / places.TRIALS
            if (inner / places.SWEEP).exists():
                tuning = sweep_plan.resume(inner, num_devices=num_devices, dataset=sets)
            else:
                tuning = sweep_plan.plan(trials.base(base), trials.changes(), sets, **sizes)
        if (directory / places.SWEEP).exists():
            final = sweep_plan.resume(directory, num_devices=num_devices, dataset=sets)
        else:
            chosen = found or [{"point": cell.points[0]} for cell in trials.cells]
            final = _plan_final(base, trials, [one["point"] for one in chosen], sets, sizes)
    for planned in (tuning, final):
        for then, now in (
            zip(known, _digests_by_cell(planned, trials), strict=True) if planned else ()
        ):
            conditions.check_data(then, now, base.data, directory)
    return Experiment(base, trials, described, tuning, found, final, sets)


def read_trials(
    described: Mapping[str, Any], num_devices: int | None = None
) -> tuple[Config, Trials]:
    """The base and the trials of an experiment.

    Args:
      described: what `tuning.json` holds.
      num_devices: `Config.devices` from now on; None leaves it as it was.

    Raises:
      UsageError: settings that cannot be used.
    """
    cells = described["cells"]
    base, changes = sweep_plan.settled(described, [cell["changes"] for cell in cells], num_devices)
    trials = Trials(
        [
            Cell(own, cell["ranges"], cell["points"])
            for own, cell in zip(changes, cells, strict=True)
        ],
        *(described[name] for name in ("seeds", "rounds", "final_seeds", "learning_rates")),
    )
    return base, trials


def _plan_final(
    base: Config,
    trials: Trials,
    chosen: Sequence[Mapping[str, Any]],
    sets: samples.DataSets,
    sizes: Mapping[str, Any],
    target: Target | None = None,
) -> Sweep:
    """The sweep of the final runs, at one point of each cell."""
    return sweep_plan.plan(base, trials.final_changes(chosen), sets, target=target, **sizes)


def _sizes(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: described[name] for name in ("runs_per_program", "vmap_runs")}


def _digests_by_cell(planned: Sweep, trials: Trials) -> list[str]:
    """Of each cell, that of its data."""
    by_run = [""] * len(planned.changes)
    for digest, group in zip(sweep_plan.data_digests(planned), planned.groups, strict=True):
        for number in group:
            by_run[number] = digest
    return by_run[:: len(by_run) // len(trials.cells)]


class _Silent:
    """Shows nothing."""

    def tuning(self, planned: Sweep) -> Any:
        return contextlib.nullcontext()

    def final(self, planned: Sweep) -> Any:
        return contextlib.nullcontext()
