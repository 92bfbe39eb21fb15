"""Many runs: grids and seeds, those that share a program trained together, one row for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from protonorm_jax import config, methods
from protonorm_jax.config import Config
from protonorm_jax.planning import deal, devices
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import checkpoint, driver, forms, job, record
from protonorm_jax.running.grid import Grid, changed
from protonorm_jax.running.grid import expand as expand
from protonorm_jax.running.grid import read_grid as read_grid
from protonorm_jax.types import Dataset


class Sweep(NamedTuple):
    """A planned sweep.

    Attributes:
      base: the settings that runs have unless they say otherwise.
      changes: of each run, the settings in which it may differ.
      groups: of each program, the numbers of its runs.
      plans: of each program.
    """

    base: Config
    changes: list[dict[str, Any]]
    groups: list[list[int]]
    plans: list[Plan]


class Display(job.Display, Protocol):
    """What is told of the progress of a sweep."""

    def start_call(self, num_runs: int, round_index: int) -> None:
        """So many runs train together now, from this round on."""

    def finish_call(self, num_runs: int, rounds: int) -> None:
        """So many runs are finished, now or by an earlier process."""


def plan(
    base: Config,
    changes: Sequence[dict[str, Any]],
    dataset: Dataset | None = None,
    *,
    runs_per_program: int | Sequence[int] = 0,
    vmap_runs: int = 0,
) -> Sweep:
    """Sorts runs by what must be compiled for them, and plans each of the programs.

    Args:
      base: the settings that runs have unless they say otherwise.
      changes: of each run, see `expand`.
      dataset: used instead of loading `Config.data`.
      runs_per_program: see `plan.make`; or one for each program.
      vmap_runs: see `plan.make`.

    Raises:
      UsageError: settings that cannot be used, or too little memory.
    """
    configs = [changed(base, change) for change in changes]
    by_program: dict[Config, list[int]] = {}
    for number, one in enumerate(configs):
        by_program.setdefault(deal.common(one), []).append(number)
    groups = list(by_program.values())
    if isinstance(runs_per_program, int):
        runs_per_program = [runs_per_program] * len(groups)
    loaded: dict[str, Dataset] = {}
    plans = []
    for group, count in zip(groups, runs_per_program, strict=True):
        made = planning.make(
            [configs[number] for number in group],
            dataset or loaded.get(configs[group[0]].data),
            runs_per_program=count,
            vmap_runs=vmap_runs,
        )
        loaded[configs[group[0]].data] = made.dataset
        plans.append(made)
    return Sweep(base, list(changes), groups, plans)


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

    Returns:
      The rows of `results.jsonl`, in the order of the grid.

    Raises:
      UsageError: settings that cannot be used, too little memory, or a directory that is not
        empty or cannot be written.
    """
    directory = Path(directory)
    record.check_free(directory, overwrite=overwrite)
    planned = plan(
        base,
        expand(base, grid, seeds),
        dataset,
        runs_per_program=runs_per_program,
        vmap_runs=vmap_runs,
    )
    return train(planned, directory, display=display)


def train(
    sweep: Sweep, directory: Path, *, display: Display | None = None, resumed: bool = False
) -> list[dict[str, Any]]:
    """Trains and records all runs of a planned sweep that have no result yet.

    Args:
      sweep: what was planned.
      directory: for the results.
      display: told of the progress.
      resumed: keep the results and the checkpoint that are there.

    Returns:
      The rows of `results.jsonl`, in the order of the runs; without those that SIGTERM has kept
      from finishing.

    Raises:
      UsageError: the directory cannot be written, too little memory, or a checkpoint that cannot
        be used.
    """
    display = display or _Silent()
    if devices.is_first() and not resumed:
        _describe(sweep, directory)
    elif devices.is_first():
        record.repair_results(directory)
    results = {row["run"]: row for row in record.read_results(directory)} if resumed else {}
    saved = checkpoint.latest(directory, _configs(sweep)) if resumed else None
    with job.StopRequest() as stop:
        for number in range(len(sweep.plans)):
            if not _train_group(sweep, number, directory, results, display, stop, saved):
                break
    return [results[name] for name in sorted(results, key=int)]


def _train_group(
    sweep: Sweep,
    number: int,
    directory: Path,
    results: dict[str, dict[str, Any]],
    display: Display,
    stop: job.StopRequest,
    saved: checkpoint.Saved | None,
) -> bool:
    """Trains the runs of one program, and adds to `results`; false if told to stop."""
    planned, names = sweep.plans[number], [run_name(run) for run in sweep.groups[number]]
    rounds, size = planned.program.config.rounds, planned.runs_per_program
    simulation = None
    for first in range(0, len(names), size):
        indices = range(first, min(first + size, len(names)))
        if devices.agree(all(names[index] in results for index in indices)):
            display.finish_call(len(indices), rounds)
            continue
        here = saved if saved and (saved.group, saved.first) == (number, first) else None
        if simulation is None:
            simulation = driver.compile_plan(planned)
            display.start(simulation)
        if devices.agree(stop.asked):
            return False
        recorders = {}
        if devices.is_first():
            if here is None:  # What is there is of runs that were finished just before a kill.
                checkpoint.clear(directory)
            for index in indices:
                folder = directory / record.RUNS / names[index]
                recorders[index] = record.Recorder(folder, planned, index)
                recorders[index].create()
                recorders[index].start(simulation, here.rows[index - first] if here else [])
        display.start_call(len(indices), here.round_index if here else 0)
        with (
            job.finishing(recorders, pictures=False),
            checkpoint.Keeper(directory, number) as keeper,
        ):
            summaries = job.train(
                simulation, first, recorders, keeper, stop, display, here, pictures=False
            )
            if any(summary["status"] == "stopped" for summary in summaries.values()):
                return False
            for index, summary in summaries.items():
                run = sweep.groups[number][index]
                row = {
                    "run": names[index],
                    "config_digest": planned.runs[index].config.digest(),
                    **sweep.changes[run],
                    **summary,
                }
                if devices.is_first() and names[index] not in results:
                    record.append_line(directory / record.RESULTS, row)
                results[names[index]] = row
            keeper.clear()
        display.finish_call(len(indices), rounds)
    return True


def resume(
    directory: Path,
    *,
    num_devices: int | None = None,
    dataset: Dataset | None = None,
) -> Sweep:
    """Plans the rest of a recorded sweep; `train` it with `resumed`.

    Args:
      directory: of the sweep.
      num_devices: `Config.devices` from now on; None leaves it as it was.
      dataset: used instead of loading `Config.data`.

    Raises:
      UsageError: there is no sweep.
    """
    described = record.read(directory / record.SWEEP, forms.sweep)
    for recorded in [described["base"], *described.get("methods_files", [])]:
        record.check_methods_file(recorded)
    base = config.from_recorded(described["base"])
    if num_devices is not None:
        base = base.replace(devices=num_devices)
    changes = described["runs"]
    if "method_settings" not in described["base"]:
        changes = [config.without_unset(one.get("method", base.method), one) for one in changes]
    return plan(
        base,
        changes,
        dataset,
        runs_per_program=described["runs_per_program"],
        vmap_runs=described["vmap_runs"],
    )


def read_results(directory: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the settings that a recorded sweep varies, and its rows.

    Raises:
      UsageError: there is no sweep, or it cannot be read.
    """
    described = record.read(directory / record.SWEEP, forms.sweep)
    return swept(described["runs"]), record.read_results(directory)


def swept(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings besides the seed in which runs differ."""
    names = dict.fromkeys(name for change in changes for name in change if name != "seed")
    return list(names)


def description(sweep: Sweep) -> list[dict[str, Any]]:
    """For each program what distinguishes it, its runs, and what it is expected to need."""
    names = swept(sweep.changes)

    def fixed(planned: Plan, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What the runs of a program have in common that others may not have."""
        varied = deal.varied(planned.program.config.method)
        return {name: changes[name] for name in changes if name.rpartition(".")[2] not in varied}

    every = [
        fixed(planned, sweep.changes[group[0]])
        for planned, group in zip(sweep.plans, sweep.groups, strict=True)
    ]
    shown = [name for name in names if any(name in one for one in every)]
    return [
        {
            "fixed": {name: own.get(name) for name in shown},
            "runs": len(planned.runs),
            "runs_per_program": planned.runs_per_program,
            "devices": len(planned.devices),
            "runs_each": planned.spread.runs_each,
            "vmap_runs": planned.spread.vmap_runs,
            "client_devices": planned.spread.client_devices,
            "bytes_per_device": planned.memory.total(),
            **planned.added._asdict(),
        }
        for planned, own in zip(sweep.plans, every, strict=True)
    ]


def run_name(number: int) -> str:
    """The name of a run, and of its folder."""
    return f"{number:04d}"


def _configs(sweep: Sweep) -> list[list[Config]]:
    return [[run.config for run in planned.runs] for planned in sweep.plans]


def _describe(sweep: Sweep, directory: Path) -> None:
    """Clears the directory of another sweep, and writes what this one is."""
    checkpoint.clear(directory)
    description = {
        "base": record.recorded_config(sweep.base),
        "runs": sweep.changes,
        "methods_files": [
            {"method": name, "methods_file": file._asdict()}
            for name, file in methods.METHODS.files.items()
            if any(change.get("method") == name for change in sweep.changes)
        ],
        "runs_per_program": [planned.runs_per_program for planned in sweep.plans],
        "vmap_runs": max(planned.spread.vmap_runs for planned in sweep.plans),
    }
    record.start_sweep(directory, description)


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
