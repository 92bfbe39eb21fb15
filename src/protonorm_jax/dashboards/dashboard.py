"""What every dashboard is told, and what it has to do."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Run(NamedTuple):
    """A run as a dashboard knows it.

    Attributes:
      id: letters, digits and hyphens that no other run has; the same when the run is resumed.
      name: as it is shown; can be the name of a file.
      group: what runs of one sweep have in common; empty for a run alone.
      settings: of the run, by name.
      swept: those by which it differs from others of its group.
      folder: where dashboards keep files on this machine; it may not be there yet.
      resumed: whether the dashboard may know the run from before.
      session: the part of `id` that all runs of the group have in common.
      shared: what a dashboard remembers from run to run of a session.
    """

    id: str
    name: str
    group: str
    settings: Mapping[str, Any]
    swept: Mapping[str, Any]
    folder: Path
    resumed: bool
    session: str
    shared: dict[str, Any]


class Dashboard(Protocol):
    """A place where one run is shown, made from a `Run`; each of its calls may raise anything.

    A run that is resumed is told from its first row on: rows that are there already are not to
    appear twice.
    """

    def add(self, row: Mapping[str, Any]) -> None:
        """Shows an evaluated round, `row["round"]`."""

    def finish(self, summary: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """Shows how the run has ended; no row comes after that."""


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn of a row or a summary: its finite numbers, but for the round."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and name != "round"
    }
