"""Tuned experiments as they are read: what was tried, and what was chosen."""

from pathlib import Path

from protonorm_jax.errors import UsageError
from protonorm_jax.report.page import Experiment
from protonorm_jax.running import directory as places
from protonorm_jax.running import forms, reading


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
