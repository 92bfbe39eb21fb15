"""Recorded runs as the statistics take them: of directories of runs, sweeps, tuned experiments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protonorm_jax import config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import forms, grid, reading
from protonorm_jax.statistics import Run

CLIENTS = "clients.npz"


def read_runs(directories: Sequence[str | Path]) -> list[Run]:
    """All runs of some directories, in the order given, whatever has become of them.

    A directory may hold a run, a sweep, or a tuned experiment, of which the final runs count and
    not those that chose its settings. Runs of a sweep that have not begun have the `status`
    `not begun`.

    Raises:
      UsageError: there is no such thing, it cannot be read, or an experiment is still being tuned.
    """
    result = []
    for directory in map(Path, directories):
        if (directory / places.SWEEP).exists():
            result += _read_sweep(directory)
        elif (directory / places.TUNING).exists():
            raise UsageError(
                f"DIR must hold final runs, got {str(directory)!r}, whose settings are not chosen "
                "yet"
            )
        else:
            result.append(read_run(directory))
    return result


def read_run(
    directory: Path,
    changes: Mapping[str, Any] | None = None,
    cell: Mapping[str, Any] | None = None,
    choice: Mapping[str, Any] | None = None,
) -> Run:
    """One recorded run, finished, killed or under way.

    Args:
      directory: of the run.
      changes: see `Run.changes`.
      cell: see `Run.cell`.
      choice: see `Run.choice`.

    Raises:
      UsageError: there is no run, or it cannot be read.
    """
    directory = Path(directory)
    summary, rows = reading.read_state(directory)
    settings = config.complete(reading.read(directory / places.CONFIG, forms.config))
    own = reading.own_predictor(settings["method"], summary)
    return Run(
        name=str(directory),
        config=settings,
        summary=summary | {"predictor": summary.get("predictor") or own},
        rows=rows,
        manifest=reading.read_manifest(directory),
        clients=_read_clients(directory),
        changes=dict(changes or {}),
        cell=None if cell is None else dict(cell),
        choice=None if choice is None else dict(choice),
        holdings=read_holdings(directory),
    )


def _read_sweep(directory: Path) -> list[Run]:
    described = reading.read(directory / places.SWEEP, forms.sweep)
    cells: list[dict[str, Any]] | None = None
    if (directory / places.TUNING).exists():
        cells = reading.read(directory / places.CHOICES, forms.choices)
    result = []
    for number, changes in enumerate(described["runs"]):
        folder = directory / places.RUNS / f"{number:04d}"
        choice = _choice(changes, cells or ())
        cell = None if choice is None else choice["changes"]
        if (folder / places.CONFIG).exists():
            result.append(read_run(folder, changes, cell, choice))
        else:
            base = config.from_recorded(described["base"])
            settings = grid.changed(base, changes).to_dict()
            summary = {"method": settings["method"], "status": "not begun", "rounds": 0}
            result.append(Run(str(folder), settings, summary, [], {}, {}, changes, cell, choice))
    return result


def _choice(changes: Mapping[str, Any], choices: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What was chosen for a run: of the cell that names the most of its settings."""
    fitting = [one for one in choices if one["changes"].items() <= changes.items()]
    return max(fitting, key=lambda one: len(one["changes"]), default=None)


def _read_clients(directory: Path) -> dict[str, np.ndarray]:
    """The arrays of `clients.npz`, or none where older versions wrote none.

    Raises:
      UsageError: the file is damaged.
    """
    arrays = reading.read_arrays(directory, (CLIENTS,)).get(CLIENTS, {})
    try:
        if arrays:
            _check_clients(arrays)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"DIR must be the directory of a run with a readable {CLIENTS}, got "
            f"{str(directory)!r}: {error}"
        ) from error
    return arrays


def read_holdings(directory: Path) -> dict[str, np.ndarray]:
    """The arrays of `holdings.npz`, or none where the manifest lists the clients.

    Raises:
      UsageError: the file is damaged.
    """
    arrays = reading.read_arrays(directory, (places.HOLDINGS,)).get(places.HOLDINGS, {})
    for name in ("train", "test") if arrays else ():
        array = arrays.get(name)
        if array is None or array.ndim != 2 or array.dtype.kind not in "iu":
            found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise UsageError(
                f"DIR must be the directory of a run with a readable {places.HOLDINGS}, got "
                f"{str(directory)!r}: {name} must be integers [clients, classes], got {found}"
            )
    return arrays


def _check_clients(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses arrays that do not fit each other."""
    clients, parts = arrays["count"].shape
    if arrays["parts"].shape != (parts,):
        raise ValueError(f"parts must be {parts} names, got {arrays['parts'].shape}")
    shape = (*arrays["rounds"].shape, clients, parts)
    for name, array in arrays.items():
        if name.endswith("_correct") and array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
