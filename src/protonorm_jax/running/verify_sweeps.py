"""Whether recorded sweeps and tuned experiments can be reproduced, and follow from their plans."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax import config
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import samples
from protonorm_jax.running import (
    choices,
    driver,
    forms,
    manifests,
    points,
    reading,
    sweep_plan,
    tuning,
    verify,
)
from protonorm_jax.running import directory as places
from protonorm_jax.running import sweep as sweeps
from protonorm_jax.running.comparing import compare_values, timeless
from protonorm_jax.running.grid import changed
from protonorm_jax.types import Dataset


class Sweep(NamedTuple):
    """What came of a sweep.

    Attributes:
      directory: of the sweep.
      runs: what came of each run; none if they were not run.
      reason: why it cannot have been reproduced whatever the numbers say: other data.
    """

    directory: Path
    runs: list[verify.Verification]
    reason: str = ""

    @property
    def identical(self) -> bool:
        """Whether every bit of every run is the same."""
        return not self.reason and all(one.identical for one in self.runs)

    @property
    def reproduced(self) -> bool:
        """Whether everything is as it must be: bit by bit, or within the tolerance."""
        return not self.reason and all(one.reproduced for one in self.runs)


class Experiment(NamedTuple):
    """What came of a tuned experiment.

    Attributes:
      directory: of the experiment.
      problems: what does not follow from what was there before it, in words.
      tuning: the sweep of the tuning runs.
      final: the sweep of the final runs.
    """

    directory: Path
    problems: list[str]
    tuning: Sweep
    final: Sweep

    @property
    def identical(self) -> bool:
        """Whether every bit of every run is the same, and what follows from them."""
        return not self.problems and self.tuning.identical and self.final.identical

    @property
    def reproduced(self) -> bool:
        """Whether everything is as it must be: bit by bit, or within the tolerance."""
        return not self.problems and self.tuning.reproduced and self.final.reproduced


def sweep(
    directory: Path,
    *,
    show: Callable[[sweeps.Sweep], AbstractContextManager[sweeps.Display]],
    num_devices: int | None = None,
    dataset: Dataset | None = None,
) -> Sweep:
    """Runs all runs of a finished sweep again, side by side as they were, and compares.

    Args:
      directory: of the sweep.
      show: what is told of the progress.
      num_devices: devices to use now; None for as many as then.
      dataset: used instead of loading `Config.data`.

    Raises:
      UsageError: there is no finished sweep, or it cannot be run again. On other data it is not
        run.
    """
    return _sweep_again(_Recorded(directory, num_devices, samples.DataSets(dataset)), show)


class _Recorded:
    """A finished sweep, and the same sweep planned again.

    Attributes:
      directory: of the sweep.
      base: the settings that were recorded.
      changes: likewise.
      results: the rows by the name of the run.
      other_files: what there is to say of files of methods.
      planned: None on other data.
      reason: what there is to say of these.

    Raises:
      UsageError: there is no finished sweep, or it cannot be planned again.
    """

    def __init__(self, directory: Path, num_devices: int | None, sets: samples.DataSets) -> None:
        self.directory = directory
        described = reading.read(directory / places.SWEEP, forms.sweep)
        self.base, self.changes = sweep_plan.settled(described, described["runs"])
        self.results = {row["run"]: row for row in reading.read_sweep(directory)[1]}
        names = [sweep_plan.run_name(number) for number in range(len(self.changes))]
        done = sum(name in self.results for name in names)
        if done < len(names):
            raise UsageError(
                f"DIR must hold a finished sweep, got {done} of {len(names)} runs in {directory}"
            )
        for name in names:
            verify.check_readable(directory / places.RUNS / name)
        given = [
            manifests.check_methods_file(one, equal=False)
            for one in [described["base"], *described.get("methods_files", [])]
        ]
        self.other_files = [one for one in given if one]
        known = described.get("data_digests") or [None]
        self.planned: sweeps.Sweep | None = None
        self.reason = ""
        try:
            self.planned = sweep_plan.replan(
                described, directory, num_devices=num_devices, dataset=sets
            )
        except UsageError:
            first = changed(self.base, self.changes[0])
            self.reason = verify.other_data(
                {"data_digest": known[0]}, lambda: sets.of(first).dataset
            )
            if not self.reason:
                raise
            return
        for then, now in zip(known, sweep_plan.data_digests(self.planned), strict=False):
            if then not in (None, now):
                self.reason = verify.words("the data differ", then, now)
                self.planned = None


def _sweep_again(
    recorded: _Recorded, show: Callable[[sweeps.Sweep], AbstractContextManager[sweeps.Display]]
) -> Sweep:
    """Runs a sweep again."""
    if recorded.planned is None:
        return Sweep(recorded.directory, [], recorded.reason)
    found: dict[int, verify.Verification] = {}
    with show(recorded.planned) as display:
        for program in range(len(recorded.planned.plans)):
            found |= _program_again(recorded, recorded.planned, program, display)
    return Sweep(recorded.directory, [found[number] for number in sorted(found)])


def _program_again(
    recorded: _Recorded, planned: sweeps.Sweep, program: int, display: sweeps.Display
) -> dict[int, verify.Verification]:
    """Runs the runs of one program again; by the number of the run, what came of it."""
    plan, numbers = planned.plans[program], planned.groups[program]
    simulation = driver.compile_plan(plan)
    display.start(simulation)
    size, rounds = plan.runs_per_program, plan.program.config.rounds
    result = {}
    for first in range(0, len(numbers), size):
        indices = range(first, min(first + size, len(numbers)))
        folders = {
            index: recorded.directory / places.RUNS / sweep_plan.run_name(numbers[index])
            for index in indices
        }
        again = {
            index: verify.Again(simulation, index, recorded=folder)
            for index, folder in folders.items()
        }
        display.start_call(len(indices), 0)
        for step in driver.train(simulation, first):
            for index, event in step.news.items():
                again[index].add(event)
            for one in again.values():
                one.compare_models(step)
            display.add(step)
        display.finish_call(len(indices), rounds)
        for index in indices:
            number = numbers[index]
            result[number] = _run_of_a_sweep(
                recorded, sweep_plan.run_name(number), planned.changes[number], again[index]
            )
    return result


def _run_of_a_sweep(
    recorded: _Recorded, name: str, changes: Mapping[str, Any], again: verify.Again
) -> verify.Verification:
    """What differs between a run of a sweep and the same run again, its row among it."""
    folder, plan = recorded.directory / places.RUNS / name, again.simulation.plan
    manifest, row = reading.read_manifest(folder), recorded.results[name]
    now = manifests.of(again.simulation, again.index, manifest.get("data_digest"))
    found = verify.compared(
        folder, again, [*verify.changes_since(manifest, now), *recorded.other_files]
    )
    own, then = plan.runs[again.index].config, config.load(folder / places.CONFIG)
    digest = own.replace(devices=then.devices).digest()  # Devices may have changed on the way.
    wanted = {"run": name, "config_digest": digest, **changes, **reading.read_summary(folder)}
    differing = {
        places.CONFIG: compare_values(_flat(then), _flat(own)),
        # A run that has a row may have been run once more beside one that a kill cost its own.
        places.RESULTS: compare_values(timeless(row), timeless(wanted)),
    }
    reason = verify.other_shares(manifest, plan, again.index)
    reason = reason or verify.other_initial(manifest, plan)
    return found._replace(files={**found.files, **differing}, reason=reason)


def _flat(own: Config) -> dict[str, Any]:
    """All settings by name, but for the devices."""
    values = own.to_dict()
    del values["devices"]
    return values | values.pop("method_settings")


def experiment(
    directory: Path,
    *,
    show: tuning.Display,
    num_devices: int | None = None,
    dataset: Dataset | None = None,
) -> Experiment:
    """Runs all runs of a finished tuned experiment again, and asks what follows from what.

    What was tried must be what is drawn for its base, the tuning runs must be those, what was
    chosen must follow from their results, and the final runs must be at what was chosen.

    Args:
      directory: of the experiment.
      show: what is told of the progress.
      num_devices: devices to use now; None for as many as then.
      dataset: used instead of loading `Config.data`.

    Raises:
      UsageError: there is no finished experiment, or it cannot be run again.
    """
    described = reading.read(directory / places.TUNING, forms.tuning)
    inner = directory / places.TRIALS
    for path in (inner / places.SWEEP, directory / places.CHOICES, directory / places.SWEEP):
        if not path.exists():
            raise UsageError(f"DIR must hold a finished experiment, got one without {str(path)!r}")
    sets = samples.DataSets(dataset)
    tried, final = (_Recorded(folder, num_devices, sets) for folder in (inner, directory))
    problems = _problems(directory, described, tried, final)
    return Experiment(
        directory, problems, _sweep_again(tried, show.tuning), _sweep_again(final, show.final)
    )


def _problems(
    directory: Path, described: Mapping[str, Any], tried: _Recorded, final: _Recorded
) -> list[str]:
    """What of an experiment does not follow from what was there before, in words."""
    base, trials = tuning.read_trials(described)
    chosen = reading.read_choices(directory)
    result = [f"{places.TUNING}: {text}" for text in points.problems(base, trials)]
    if not _is_of(tried, trials.base(base), trials.changes()):
        result.append(f"{places.TRIALS}/{places.SWEEP} is not what {places.TUNING} says")
    elif tried.planned is not None:
        rows = [tried.results[name] for name in sorted(tried.results, key=int)]
        wanted = choices.choose(trials, rows, tuning.seconds_of_each(tried.planned, rows))
        if wanted != chosen:
            result.append(f"{places.CHOICES} does not follow from {places.TRIALS}/{places.RESULTS}")
    at_choices = [one["point"] for one in chosen]
    if len(chosen) != len(trials.cells) or not _is_of(
        final, base, trials.final_changes(at_choices)
    ):
        result.append(f"{places.SWEEP} is not what {places.CHOICES} says")
    return result


def _is_of(recorded: _Recorded, base: Config, changes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a sweep is of these settings; on how many devices is free."""
    return recorded.changes == changes and _flat(recorded.base) == _flat(base)
