"""Whether what was recorded can be reproduced: runs it again and compares it row by row."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning import samples
from protonorm_jax.running import (
    conditions,
    driver,
    files,
    job,
    kept_models,
    manifests,
    reading,
    record,
)
from protonorm_jax.running import directory as places
from protonorm_jax.running.comparing import (
    Difference,
    compare_arrays,
    compare_rows,
    compare_summaries,
)
from protonorm_jax.trained import files as trained
from protonorm_jax.types import Dataset


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
    check_readable(directory)
    manifest = reading.read_manifest(directory)

    try:
        plan = planning.make([settings], dataset)
    except UsageError:
        reason = other_data(manifest, lambda: samples.DataSets(dataset).of(settings).dataset)
        if not reason:
            raise
        return Verification(directory, [reason], [], {}, reason)
    reason = other_data(manifest, lambda: plan.dataset) or other_shares(manifest, plan)
    reason = reason or other_initial(manifest, plan)
    if reason:
        return Verification(directory, [reason], [], {}, reason)
    display.plan(plan)
    simulation = driver.compile_plan(plan)
    display.start(simulation)
    again = Again(simulation, recorded=directory)
    for step in driver.train(simulation):
        for event in step.news.values():
            again.add(event)
        again.compare_models(step)
        display.add(step)
    if again.error is not None:
        raise again.error
    changes = changes_since(manifest, manifests.of(simulation))
    return compared(directory, again, changes + ([other_file] if other_file else []))


def check_readable(directory: Path) -> None:
    """Refuses a recorded run that cannot be compared, and so need not be run."""
    if _keeps_models(directory):
        trained.find(directory)
    for read in (reading.read_summary, reading.read_rows, reading.read_manifest):
        read(directory)
    reading.read_arrays(directory)


def _keeps_models(directory: Path) -> bool:
    """Whether a recorded run has kept its models."""
    asked = config.load_values(directory / places.CONFIG).get("keep_models", "none")
    return asked != "none" and reading.read_summary(directory).get("status") == "finished"


class Again:
    """What comes of a run that is run again.

    Args:
      simulation: compiled.
      index: into `plan.runs`.
      recorded: directory of the run as it was recorded.
    """

    def __init__(self, simulation: driver.Simulation, index: int = 0, *, recorded: Path) -> None:
        self.simulation, self.index = simulation, index
        self._models = kept_models.Comparison(recorded) if _keeps_models(recorded) else None
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

    def compare_models(self, step: driver.Step) -> None:
        """Compares the models that were kept, if they are of this step's round."""
        if self._models is not None and self.error is None:
            number = self.index % self.simulation.plan.runs_per_program
            self._models.add(self.simulation, step, number)

    def models(self) -> dict[str, list[Difference]]:
        """By file of the kept models, what differs."""
        return dict(sorted(self._models.files.items())) if self._models else {}

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """See `record.arrays_by_file`."""
        return record.arrays_by_file(self._last, self._by_client)

    def summary(self) -> dict[str, Any]:
        """As `summary.json` has it, but for times."""
        figures = driver.summary(self.simulation, self.index, self.rows, 0.0)
        status = {"status": "failed", "error": str(self.error)} if self.error else {}
        return files.finite(figures | {"status": "finished"} | status)


def compared(directory: Path, again: Again, changes: list[str]) -> Verification:
    """What differs between a recorded run and the same run again.

    Of one that has diverged the last arrays are left out: they are there only if none of its rounds
    was run in an earlier process.
    """
    summary = reading.read_summary(directory)
    rows = reading.read_rows(directory)
    differing = {"summary.json": compare_summaries(summary, again.summary())}
    if summary["status"] == "finished" and again.error is None:
        recorded, found = reading.read_arrays(directory), again.arrays()
        if "predictor" not in summary:  # Older versions kept nothing of single clients.
            found.pop("clients.npz", None)
        for name in dict.fromkeys([*recorded, *found]):
            differing[name] = compare_arrays(recorded.get(name, {}), found.get(name, {}))
        differing |= again.models()
    return Verification(directory, changes, compare_rows(rows, again.rows), differing)


def other_data(then: dict[str, Any], load: Callable[[], Dataset]) -> str:
    """What to say of data that are not as recorded; nothing if they are, or it is not known."""
    recorded = then.get("data_digest")
    if recorded is None:
        return ""
    try:
        now = conditions.data_digest(load())
    except UsageError:
        return ""
    return "" if now == recorded else words("the data differ", recorded, now)


def other_shares(then: dict[str, Any], plan: planning.Plan, index: int = 0) -> str:
    """As `other_data`, of who holds which samples in run `index`."""
    recorded = then.get("partition_digest")
    now = conditions.partition_digest(plan.runs[index].partition)
    same = recorded in (None, now)
    return "" if same else words("the partition differs", recorded, now)


def other_initial(then: dict[str, Any], plan: planning.Plan) -> str:
    """As `other_data`, of the nets that clients start with."""
    recorded = then.get("initial_digest")
    now = plan.initial.digest if plan.initial else None
    same = recorded in (None, now)
    return "" if same else words("the nets to start with differ", recorded, str(now))


def words(what: str, then: str | None, now: str) -> str:
    """What to say of a digest that is another one."""
    return f"{what}: SHA-256 {then} -> {now}"


def changes_since(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
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
