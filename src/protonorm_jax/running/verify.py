"""Whether a recorded run can be reproduced: runs it again and compares it row by row."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning import samples
from protonorm_jax.running import conditions, driver, job, reading, record
from protonorm_jax.types import Dataset

# Older versions counted what is sent to clients that do not train, and had no totals.
_COUNTED_ANEW = {"floats_down", "floats_up_total", "floats_down_total"}
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
      arrays: by file (see `record.arrays_by_file`), what differs in its arrays.
      reason: why it cannot have been reproduced whatever the numbers say: other data.
    """

    directory: Path
    changes: list[str]
    rounds: list[tuple[int, list[Difference]]]
    arrays: dict[str, list[Difference]]
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
        return list(itertools.chain(*by_round, *self.arrays.values()))


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
    rows = reading.read_rows(directory)
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
    now: list[dict[str, Any]] = []
    last: driver.Evaluation | None = None
    by_client = record.ByClient(simulation)
    for step in driver.train(simulation):
        for event in step.news.values():
            if isinstance(event, UsageError):
                raise event
            now.append(event.row)
            by_client.add(event)
            last = event
        display.add(step)

    recorded, found = reading.read_arrays(directory), record.arrays_by_file(last, by_client)
    if "predictor" not in manifest:  # Older versions kept nothing of single clients.
        found.pop("clients.npz", None)
    changes = _changes(manifest, record.manifest(simulation))
    return Verification(
        directory,
        changes + ([other_file] if other_file else []),
        _compare_rows(rows, now),
        {
            name: _compare_arrays(recorded.get(name, {}), found.get(name, {}))
            for name in dict.fromkeys([*recorded, *found])
        },
    )


def _other_data(then: dict[str, Any], load: Callable[[], Dataset]) -> str:
    """What to say of data that are not as recorded; nothing if they are, or it is not known."""
    recorded = then.get("data_digest")
    if recorded is None:
        return ""
    try:
        now = conditions.data_digest(load())
    except UsageError:
        return ""
    return "" if now == recorded else f"the data differ: SHA-256 {recorded} -> {now}"


def _other_shares(then: dict[str, Any], plan: planning.Plan) -> str:
    """As `_other_data`, of who holds which samples."""
    recorded = then.get("partition_digest")
    now = conditions.partition_digest(plan.runs[0].partition)
    same = recorded in (None, now)
    return "" if same else f"the partition differs: SHA-256 {recorded} -> {now}"


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


def _difference(name: str, recorded: Any, now: Any) -> Difference:
    numbers = all(isinstance(value, int | float) for value in (recorded, now))
    within = numbers and math.isclose(recorded, now, rel_tol=RELATIVE, abs_tol=_absolute(name))
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
