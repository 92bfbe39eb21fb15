"""Tuned experiments as they are read: what was tried, and what was chosen."""

from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import forms, reading


class Experiment(NamedTuple):
    """A tuned experiment.

    Attributes:
      name: its directory as the user gave it.
      tuning: what `tuning.json` holds.
      choices: what `choices.json` holds; empty while tuning goes on.
      done: tuning runs that have a result.
      has_begun: whether there is a sweep of final runs.
    """

    name: str
    tuning: dict[str, Any]
    choices: list[dict[str, Any]]
    done: int
    has_begun: bool


def read_experiment(name: str | Path) -> Experiment | None:
    """The tuned experiment in a directory; None if it holds none.

    Raises:
      UsageError: a file of it cannot be read.
    """
    directory = Path(name)
    if not (directory / places.TUNING).exists():
        return None
    described = reading.read(directory / places.TUNING, forms.tuning)
    trials = directory / places.TRIALS
    done = len(reading.read_results(trials)) if (trials / places.RESULTS).exists() else 0
    begun = (directory / places.SWEEP).exists()
    return Experiment(str(name), described, reading.read_choices(directory), done, begun)


def check_directory(name: str | Path) -> None:
    """Refuses a directory that holds nothing of ours.

    Raises:
      UsageError: it holds no run, no sweep and no tuned experiment.
    """
    known = (places.CONFIG, places.SWEEP, places.TUNING)
    if not any((Path(name) / one).is_file() for one in known):
        raise UsageError(
            "DIR must be the directory of a run, a sweep or a tuned experiment, with "
            f"{', '.join(known[:-1])} or {known[-1]}, got {str(name)!r}"
        )
