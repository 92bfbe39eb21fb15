"""Recorded runs and sweeps as they are read: finished, killed, or under way."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protonorm_jax import metrics
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import forms, holders

# By their papers.
_PROTOTYPES = ("protonorm", "fedproto", "fedtgp")
ARRAYS = ("prototypes.npz", "shown.npz", "server.npz", "clients.npz", "features.npz")


def read(path: Path, parse: Callable[[str], Any]) -> Any:
    """What `parse` makes of a file of a recorded run.

    Raises:
      UsageError: it is missing or cannot be parsed.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"DIR must be the directory of a run with a readable {path.name}, got "
            f"{str(path.parent)!r}: {error}"
        ) from error


def read_summary(directory: Path) -> dict[str, Any]:
    """The summary of a recorded run.

    Raises:
      UsageError: there is none, or it cannot be read.
    """
    return read(directory / places.SUMMARY, forms.summary)


def own_predictor(method: str, summary: Mapping[str, Any]) -> str:
    """The method's own predictor, of a run of an older version, which does not say it."""
    has = any(name.startswith("prototype_") and name.endswith("accuracy") for name in summary)
    return "prototype" if method in _PROTOTYPES and has else "head"


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a recorded run, or nothing where it has not come so far.

    Raises:
      UsageError: it cannot be read.
    """
    if not (directory / places.MANIFEST).exists():
        return {}
    return read(directory / places.MANIFEST, forms.manifest)


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of a recorded run, one for each evaluated round, without one half-written.

    Raises:
      UsageError: there are none, or they cannot be read.
    """
    return read(directory / places.ROWS, forms.rows)


def read_results(directory: Path) -> list[dict[str, Any]]:
    """The rows of a sweep so far, without one that is being written or was never finished.

    Also those that jobs which share it have not put together yet.

    Raises:
      UsageError: there are none, or they cannot be read.
    """
    rows = read(directory / places.RESULTS, forms.results)
    known = {row["run"] for row in rows}
    for folder in places.shards(directory):
        path = folder / places.RESULTS
        if not path.exists():
            continue
        try:
            more = read(path, forms.results)
        except UsageError:
            if path.exists():
                raise
            return read_results(directory)  # By now they are together.
        rows += [row for row in more if row["run"] not in known]
        known |= {row["run"] for row in more}
    return sorted(rows, key=lambda row: int(row["run"]))


def read_sweep(directory: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the settings that a recorded sweep varies, and its rows.

    Raises:
      UsageError: there is no sweep, or it cannot be read.
    """
    described = read(directory / places.SWEEP, forms.sweep)
    if not (directory / places.RESULTS).exists():  # It has only begun.
        return swept(described["runs"]), []
    return swept(described["runs"]), read_results(directory)


def swept(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings besides the seed in which runs differ."""
    names = dict.fromkeys(name for change in changes for name in change if name != "seed")
    return list(names)


def read_choices(directory: Path) -> list[dict[str, Any]]:
    """What a tuned experiment has chosen in each cell; nothing where it has not come so far.

    Raises:
      UsageError: it cannot be read.
    """
    if not (directory / places.CHOICES).exists():
        return []
    return read(directory / places.CHOICES, forms.choices)


def read_arrays(directory: Path, names: Sequence[str] = ARRAYS) -> dict[str, dict[str, np.ndarray]]:
    """What `record.arrays_by_file` has written.

    Args:
      directory: of the run.
      names: of the files; those that there are not are left out.

    Raises:
      UsageError: a file cannot be read.
    """
    result = {}
    for name in names:
        if (directory / name).exists():
            try:
                with np.load(directory / name, allow_pickle=False) as file:
                    result[name] = dict(file)
            except Exception as error:  # What a damaged archive raises is anything.
                raise UsageError(
                    f"DIR must be the directory of a run with a readable {name}, got "
                    f"{str(directory)!r}: {error}"
                ) from error
    return result


def read_state(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary and the rows of a run, whatever has become of it.

    Without a summary of its own the run has `status` `running` if a process has it in use, else
    `killed`, and the figures of its last row.

    Raises:
      UsageError: there is no run, or it cannot be read.
    """
    begun = (directory / places.CONFIG).exists() and not (directory / places.REPLACEMENT).exists()
    if not begun or (directory / places.SUMMARY).exists():
        return read_summary(directory), read_rows(directory)
    rows = read_rows(directory) if (directory / places.ROWS).exists() else []
    manifest = read_manifest(directory)
    used = holders.Pulse().of(*locked_by(directory)).life == holders.ALIVE
    return {
        "method": read(directory / places.CONFIG, forms.method),
        **metrics.summary(rows, manifest.get("predictor")),
        "majority_accuracy": manifest.get("majority_accuracy"),
        "status": "running" if used else "killed",
    }, rows


def locked_by(directory: Path) -> list[Path]:
    """The directories by whose locks a run may be in use: its own, that of its sweep or of a job.

    Raises:
      UsageError: what a job's share is cannot be read.
    """
    folder = directory.absolute()
    own = folder.parent if folder.name == places.LONGER else folder
    if own.parent.name != places.RUNS:
        return [own]
    sweep = own.parent.parent
    shares = [shard for shard in places.shards(sweep) if own.name in _share(shard)]
    return [own, sweep, *shares]


def _share(shard: Path) -> list[str]:
    """The names of the runs that are a job's; none where that is not said yet, or no more."""
    path = shard / places.SHARE
    try:
        return read(path, forms.share)
    except UsageError:
        if path.exists():
            raise
        return []


def is_finished(directory: Path) -> bool:
    """Whether a recorded run has come to its end."""
    if (directory / places.REPLACEMENT).exists():
        return False
    summary = directory / places.SUMMARY
    return summary.exists() and read_summary(directory).get("status") == "finished"
