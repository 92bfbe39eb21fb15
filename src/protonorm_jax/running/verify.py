"""Whether what was recorded can be reproduced: runs it again and compares it row by row."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import config
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning import samples
from protonorm_jax.running import (
    choices,
    conditions,
    driver,
    files,
    forms,
    job,
    points,
    reading,
    record,
    tuning,
)
from protonorm_jax.running import directory as places
from protonorm_jax.running import sweep as sweeps
from protonorm_jax.running.grid import changed
from protonorm_jax.types import Dataset

# Older versions counted what is sent to clients that do not train, and had no totals.
_COUNTED_ANEW = {"floats_down", "floats_up_total", "floats_down_total"}
# In summaries: what comes out otherwise each time.
_OF_ITS_TIME = ("seconds", "compile_seconds", "warnings")
# Of what a device computes in another order. Rounding errors grow as training goes on.
RELATIVE = 1e-3
ABSOLUTE = 0.02


class Difference(NamedTuple):
    """A number that came out otherwise.

    Attributes:
      name: of the column, or of the array.
      recorded: the value then; of an array, one of its elements.
      now: the value now.
      within: whether that is within the tolerance.
    """

    name: str
    recorded: Any
    now: Any
    within: bool


class Verification(NamedTuple):
    """What came of it.

    Attributes:
      directory: of the run.
      changes: what is not as it was then, as in `jax 0.9.0 -> 0.10.2`; if there is nothing, equal
        bits are demanded.
      rounds: for each recorded row, its round and what differs.
      files: by file what differs in it: in its arrays (see `record.arrays_by_file`), in the
        summary, and of a run of a sweep in its settings and its row.
      reason: why it cannot have been reproduced whatever the numbers say: other data.
    """

    directory: Path
    changes: list[str]
    rounds: list[tuple[int, list[Difference]]]
    files: dict[str, list[Difference]]
    reason: str = ""

    @property
    def identical(self) -> bool:
        """Whether every bit is the same."""
        return not self.reason and not any(self._all())

    @property
    def reproduced(self) -> bool:
        """Whether everything is as it must be: bit by bit, or within the tolerance."""
        allowed = bool(self.changes) and not self.reason
        return self.identical or (allowed and all(one.within for one in self._all()))

    def _all(self) -> list[Difference]:
        by_round = [differences for _, differences in self.rounds]
        return list(itertools.chain(*by_round, *self.files.values()))


def run(
    directory: Path,
    *,
    display: job.RunDisplay,
    num_devices: int | None = None,
    dataset: Dataset | None = None,
) -> Verification:
    """Runs a finished run again and compares.

    Args:
      directory: of the run.
      display: told of the progress.
      num_devices: devices to use now; None for as many as then.
      dataset: used instead of loading `Config.data`.

    Raises:
      UsageError: there is no finished run, or it cannot be run again. On other data it is not run.
    """
    settings = job.settings_of(directory, num_devices)
    other_file = job.check_methods_file(directory, equal=False)
    status = reading.read_summary(directory).get("status")
    if status != "finished":
        raise UsageError(f"DIR must hold a finished run, got status {status!r} in {directory}")
    _check_readable(directory)
    manifest = reading.read_manifest(directory)

    try:
        plan = planning.make([settings], dataset)
    except UsageError:
        reason = _other_data(manifest, lambda: samples.DataSets(dataset).of(settings).dataset)
        if not reason:
            raise
        return Verification(directory, [reason], [], {}, reason)
    reason = _other_data(manifest, lambda: plan.dataset) or _other_shares(manifest, plan)
    if reason:
        return Verification(directory, [reason], [], {}, reason)
    display.plan(plan)
    simulation = driver.compile_plan(plan)
    display.start(simulation)
    again = _Again(simulation)
    for step in driver.train(simulation):
        for event in step.news.values():
            again.add(event)
        display.add(step)
    if again.error is not None:
        raise again.error
    changes = _changes(manifest, record.manifest(simulation))
    return _compared(directory, again, changes + ([other_file] if other_file else []))


def _check_readable(directory: Path) -> None:
    """Refuses a recorded run that cannot be compared, and so need not be run."""
    config.load_values(directory / places.CONFIG)
    for read in (reading.read_summary, reading.read_rows, reading.read_manifest):
        read(directory)
    reading.read_arrays(directory)


class _Again:
    """What comes of a run that is run again.

    Args:
      simulation: compiled.
      index: into `plan.runs`.
    """

    def __init__(self, simulation: driver.Simulation, index: int = 0) -> None:
        self.simulation, self.index = simulation, index
        self.rows: list[dict[str, Any]] = []
        self.error: UsageError | None = None
        self._last: driver.Evaluation | None = None
        self._by_client = record.ByClient(simulation, index)

    def add(self, event: driver.Evaluation | UsageError) -> None:
        """Takes in an evaluated round, or why there are no more."""
        if isinstance(event, UsageError):
            self.error = event
            return
        self.rows.append(event.row)
        self._by_client.add(event)
        self._last = event

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """See `record.arrays_by_file`."""
        return record.arrays_by_file(self._last, self._by_client)

    def summary(self) -> dict[str, Any]:
        """As `summary.json` has it, but for times."""
        figures = driver.summary(self.simulation, self.index, self.rows, 0.0)
        status = {"status": "failed", "error": str(self.error)} if self.error else {}
        return files.finite(figures | {"status": "finished"} | status)


def _compared(directory: Path, again: _Again, changes: list[str]) -> Verification:
    """What differs between a recorded run and the same run again.

    Of one that has diverged the last arrays are left out: they are there only if none of its rounds
    was run in an earlier process.
    """
    summary = reading.read_summary(directory)
    rows = reading.read_rows(directory)
    differing = {"summary.json": _compare_summaries(summary, again.summary())}
    if summary["status"] == "finished" and again.error is None:
        recorded, found = reading.read_arrays(directory), again.arrays()
        if "predictor" not in summary:  # Older versions kept nothing of single clients.
            found.pop("clients.npz", None)
        for name in dict.fromkeys([*recorded, *found]):
            differing[name] = _compare_arrays(recorded.get(name, {}), found.get(name, {}))
    return Verification(directory, changes, _compare_rows(rows, again.rows), differing)


class Sweep(NamedTuple):
    """What came of a sweep.

    Attributes:
      directory: of the sweep.
      runs: what came of each run; none if they were not run.
      reason: why it cannot have been reproduced whatever the numbers say: other data.
    """

    directory: Path
    runs: list[Verification]
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
        self.base, self.changes = sweeps.settled(described, described["runs"])
        self.results = {row["run"]: row for row in sweeps.read_results(directory)[1]}
        names = [sweeps.run_name(number) for number in range(len(self.changes))]
        done = sum(name in self.results for name in names)
        if done < len(names):
            raise UsageError(
                f"DIR must hold a finished sweep, got {done} of {len(names)} runs in {directory}"
            )
        for name in names:
            _check_readable(directory / places.RUNS / name)
        given = [
            record.check_methods_file(one, equal=False)
            for one in [described["base"], *described.get("methods_files", [])]
        ]
        self.other_files = [one for one in given if one]
        known = described.get("data_digests") or [None]
        self.planned: sweeps.Sweep | None = None
        self.reason = ""
        try:
            self.planned = sweeps.replan(
                described, directory, num_devices=num_devices, dataset=sets
            )
        except UsageError:
            first = changed(self.base, self.changes[0])
            self.reason = _other_data({"data_digest": known[0]}, lambda: sets.of(first).dataset)
            if not self.reason:
                raise
            return
        for then, now in zip(known, sweeps.data_digests(self.planned), strict=False):
            if then not in (None, now):
                self.reason = _words("the data differ", then, now)
                self.planned = None


def _sweep_again(
    recorded: _Recorded, show: Callable[[sweeps.Sweep], AbstractContextManager[sweeps.Display]]
) -> Sweep:
    """Runs a sweep again."""
    if recorded.planned is None:
        return Sweep(recorded.directory, [], recorded.reason)
    found: dict[int, Verification] = {}
    with show(recorded.planned) as display:
        for program in range(len(recorded.planned.plans)):
            found |= _program_again(recorded, recorded.planned, program, display)
    return Sweep(recorded.directory, [found[number] for number in sorted(found)])


def _program_again(
    recorded: _Recorded, planned: sweeps.Sweep, program: int, display: sweeps.Display
) -> dict[int, Verification]:
    """Runs the runs of one program again; by the number of the run, what came of it."""
    plan, numbers = planned.plans[program], planned.groups[program]
    simulation = driver.compile_plan(plan)
    display.start(simulation)
    size, rounds = plan.runs_per_program, plan.program.config.rounds
    result = {}
    for first in range(0, len(numbers), size):
        indices = range(first, min(first + size, len(numbers)))
        again = {index: _Again(simulation, index) for index in indices}
        display.start_call(len(indices), 0)
        for step in driver.train(simulation, first):
            for index, event in step.news.items():
                again[index].add(event)
            display.add(step)
        display.finish_call(len(indices), rounds)
        for index in indices:
            number = numbers[index]
            result[number] = _run_of_a_sweep(
                recorded, sweeps.run_name(number), planned.changes[number], again[index]
            )
    return result


def _run_of_a_sweep(
    recorded: _Recorded, name: str, changes: Mapping[str, Any], again: _Again
) -> Verification:
    """What differs between a run of a sweep and the same run again, its row among it."""
    folder, plan = recorded.directory / places.RUNS / name, again.simulation.plan
    manifest, row = reading.read_manifest(folder), recorded.results[name]
    now = record.manifest(again.simulation, again.index, manifest.get("data_digest"))
    found = _compared(folder, again, [*_changes(manifest, now), *recorded.other_files])
    own, then = plan.runs[again.index].config, config.load(folder / places.CONFIG)
    digest = own.replace(devices=then.devices).digest()  # Devices may have changed on the way.
    wanted = {"run": name, "config_digest": digest, **changes, **reading.read_summary(folder)}
    differing = {
        places.CONFIG: _compare_values(_flat(then), _flat(own)),
        # A run that has a row may have been run once more beside one that a kill cost its own.
        places.RESULTS: _compare_values(_timeless(row), _timeless(wanted)),
    }
    reason = _other_shares(manifest, plan, again.index)
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


def _other_data(then: dict[str, Any], load: Callable[[], Dataset]) -> str:
    """What to say of data that are not as recorded; nothing if they are, or it is not known."""
    recorded = then.get("data_digest")
    if recorded is None:
        return ""
    try:
        now = conditions.data_digest(load())
    except UsageError:
        return ""
    return "" if now == recorded else _words("the data differ", recorded, now)


def _other_shares(then: dict[str, Any], plan: planning.Plan, index: int = 0) -> str:
    """As `_other_data`, of who holds which samples in run `index`."""
    recorded = then.get("partition_digest")
    now = conditions.partition_digest(plan.runs[index].partition)
    same = recorded in (None, now)
    return "" if same else _words("the partition differs", recorded, now)


def _words(what: str, then: str | None, now: str) -> str:
    return f"{what}: SHA-256 {then} -> {now}"


def _changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the bits depend on and is not what it was: versions, kind of device, vmapped batches."""
    changes = []
    for name, version in now["versions"].items():
        before = then.get("versions", {}).get(name)
        if before != version:
            changes.append(f"{name} {before} -> {version}")
    for name in ("platform", "kind", "machine"):
        before = then.get("device", {}).get(name)
        if before != now["device"][name]:
            changes.append(f"{name} of device {before} -> {now['device'][name]}")
    for name, count in now["vmapped"].items():
        before = then.get("vmapped", {}).get(name)
        if before != count:
            changes.append(f"vmapped {name} {before} -> {count}")
    for name, (before, after) in conditions.changed_flags(then).items():
        changes.append(f"{name} {before} -> {after}")
    before, after = then.get("git_commit"), now["git_commit"]
    if before and after and before != after:
        changes.append(f"commit {before} -> {after}")
    # Clients that take turns have the same bits wherever they are.
    before = then.get("device", {}).get("count")
    if max(now["vmapped"].values()) > 1 and before != now["device"]["count"]:
        changes.append(f"devices {before} -> {now['device']['count']}, with vmapped clients")
    return changes


def _compare_rows(
    recorded: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]
) -> list[tuple[int, list[Difference]]]:
    """Row by row; one that is missing on either side differs in its round.

    Of a run that an older version recorded, columns are left out that it counted in another way, or
    that are empty now where no upload arrived.
    """
    by_round = {row["round"]: row for row in now}
    known = {row["round"] for row in recorded}
    old = not any("floats_up_total" in row for row in recorded)
    result = []
    for row in recorded:
        other = by_round.get(row["round"], {})
        names = list(dict.fromkeys([*row, *other]))
        if old:
            lost = other.get("uploads_arrived") == 0
            empty = {name for name in other if lost and other[name] is None}
            names = [name for name in names if name not in _COUNTED_ANEW | empty]
        pairs = [(name, row.get(name), other.get(name)) for name in names]
        result.append((row["round"], [_difference(*pair) for pair in pairs if pair[1] != pair[2]]))
    for round_index in by_round.keys() - known:
        result.append((round_index, [Difference("round", None, round_index, False)]))
    return sorted(result, key=lambda pair: pair[0])


def _compare_summaries(recorded: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """Field by field, but for times and warnings.

    Of what an older version recorded, what it did not know or counted in another way is left out.
    """
    old = "predictor" not in recorded
    names = [name for name in recorded if not (old and name in (*_COUNTED_ANEW, "status"))]
    left = _timeless({name: recorded[name] for name in names})
    found = {name: value for name, value in now.items() if name in left or not old}
    return _compare_values(left, _timeless(found))


def _timeless(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _OF_ITS_TIME}


def _compare_values(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Value by value; one that is missing on either side differs."""
    pairs = ((name, recorded.get(name), now.get(name)) for name in dict.fromkeys([*recorded, *now]))
    return [_difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _difference(name: str, recorded: Any, now: Any) -> Difference:
    numbers = all(isinstance(value, int | float) for value in (recorded, now))
    within = numbers and math.isclose(recorded, now, rel_tol=RELATIVE, abs_tol=_absolute(name))
    within = within or (numbers and name == "selected_round")  # Of rounds that are nearly as good.
    return Difference(name, recorded, now, within)


def _absolute(name: str) -> float:
    """One sample more or less that is classified right moves an accuracy."""
    return ABSOLUTE if "accuracy" in name else 1e-6


def _compare_arrays(
    recorded: dict[str, np.ndarray], now: dict[str, np.ndarray]
) -> list[Difference]:
    result = []
    for name in dict.fromkeys([*recorded, *now]):
        one, other = recorded.get(name), now.get(name)
        if one is None or other is None or one.shape != other.shape:
            then, found = (None if array is None else array.shape for array in (one, other))
            result.append(Difference(name, then, found, False))
        elif not np.array_equal(one, other):
            one, other = one.astype(float), other.astype(float)  # Truth values have no difference.
            worst = np.unravel_index(np.argmax(np.abs(one - other)), one.shape)
            within = bool(np.allclose(one, other, rtol=RELATIVE, atol=RELATIVE * np.abs(one).max()))
            result.append(Difference(name, one[worst].item(), other[worst].item(), within))
    return result
