"""The directory of a sweep or a tuned experiment: what is written there beside its runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax.running import directory as places
from protonorm_jax.running import files, lock, reading


def start_sweep(directory: Path, description: dict[str, Any], *, replacing: bool) -> None:
    """Says what a sweep is, which starts now.

    Args:
      directory: of the sweep.
      description: of it.
      replacing: whether another run or sweep gives way to it.

    Raises:
      UsageError: it cannot be written.
    """
    with files.writing(directory):
        _describe(directory, places.SWEEP, description, replacing)
        with files.replacing(directory / places.RESULTS):
            pass


def start_share(folder: Path, names: Sequence[str]) -> None:
    """Says in the folder of a job which runs of a sweep are its own.

    Raises:
      UsageError: it cannot be written.
    """
    with files.writing(folder):
        files.write_json(folder / places.SHARE, {"runs": names})


def start_tuning(directory: Path, description: dict[str, Any], *, replacing: bool) -> None:
    """Says what a tuned experiment is, before the first of its runs.

    Args:
      directory: of the experiment.
      description: of it.
      replacing: whether another run, sweep or experiment gives way to it.

    Raises:
      UsageError: it cannot be written.
    """
    with files.writing(directory):
        _describe(directory, places.TUNING, description, replacing)


def _describe(directory: Path, name: str, description: dict[str, Any], replacing: bool) -> None:
    """Writes a file that says what begins here, in place of what is there or in a new directory."""
    directory.mkdir(parents=True, exist_ok=True)
    if replacing:
        places.replace(directory, name, description)
    else:
        files.write_json(directory / name, description)


def write_choices(directory: Path, choices: Sequence[Mapping[str, Any]]) -> None:
    """Says what a tuned experiment has chosen.

    Raises:
      UsageError: it cannot be written.
    """
    lock.check(directory)
    with files.writing(directory):
        files.write_json(directory / places.CHOICES, choices)


def repair_results(directory: Path) -> None:
    """Cuts off a row that a crash has left incomplete, and makes the file if there is none.

    Raises:
      UsageError: the file cannot be written.
    """
    with files.writing(directory), open(directory / places.RESULTS, "a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def gather_results(directory: Path, count: int) -> None:
    """Puts the rows of jobs that share a sweep together, as soon as there are so many.

    Raises:
      UsageError: they cannot be read or written.
    """
    rows = reading.read_results(directory)
    if len(rows) == count:
        with files.writing(directory), files.replacing(directory / places.RESULTS) as file:
            file.writelines(map(files.line, rows))
        places.clear_checkpoints(directory)
        places.remove_shards(directory)
