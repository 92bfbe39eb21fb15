"""Whether a recorded run can be reproduced: runs it again and compares it row by row."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax.errors import UsageError
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import driver, job, record
from protonorm_jax.types import Dataset

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
      arrays: what differs in `prototypes.npz`.
    """

    directory: Path
    changes: list[str]
    rounds: list[tuple[int, list[Difference]]]
    arrays: list[Difference]

    @property
    def identical(self) -> bool:
        """Whether every bit is the same."""
        return not self.arrays and not any(differences for _, differences in self.rounds)

    @property
    def reproduced(self) -> bool:
        """Whether everything is as it must be: bit by bit, or within the tolerance."""
        every = [*self.arrays, *(one for _, several in self.rounds for one in several)]
        return self.identical or (bool(self.changes) and all(one.within for one in every))


def run(
    directory: Path,
    *,
    display: job.Display,
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
      UsageError: there is no finished run, or it cannot be run again.
    """
    settings = job.settings_of(directory, num_devices)
    status = record.read_summary(directory).get("status")
    if status != "finished":
        raise UsageError(f"DIR must hold a finished run, got status {status!r} in {directory}")
    rows = record.read_rows(directory)
    manifest = record.read(directory / "manifest.json", json.loads)

    simulation = driver.compile_plan(planning.make([settings], dataset))
    display.start(simulation)
    now: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for step in driver.train(simulation):
        for event in step.news.values():
            if isinstance(event, UsageError):
                raise event
            now.append(event.row)
            arrays = event.arrays
        display.add(step)

    recorded: dict[str, np.ndarray] = {}
    if (directory / "prototypes.npz").exists():
        with np.load(directory / "prototypes.npz") as file:
            recorded = dict(file)
    return Verification(
        directory,
        _changes(manifest, record.manifest(simulation)),
        _compare_rows(rows, now),
        _compare_arrays(recorded, arrays),
    )


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
    # Clients that take turns have the same bits wherever they are.
    before = then.get("device", {}).get("count")
    if max(now["vmapped"].values()) > 1 and before != now["device"]["count"]:
        changes.append(f"devices {before} -> {now['device']['count']}, with vmapped clients")
    return changes


def _compare_rows(
    recorded: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]
) -> list[tuple[int, list[Difference]]]:
    """Row by row; one that is missing on either side differs in its round."""
    by_round = {row["round"]: row for row in now}
    known = {row["round"] for row in recorded}
    result = []
    for row in recorded:
        other = by_round.get(row["round"], {})
        names = dict.fromkeys([*row, *other])
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
            worst = np.unravel_index(np.argmax(np.abs(one - other)), one.shape)
            within = bool(np.allclose(one, other, rtol=RELATIVE, atol=RELATIVE * np.abs(one).max()))
            result.append(Difference(name, one[worst].item(), other[worst].item(), within))
    return result
