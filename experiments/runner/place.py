"""What is there of an experiment: `DIR/NAME`, and in `DIR/NAME.json` what was asked for."""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protonorm_jax import json_files
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import files, forms, reading


class State(enum.Enum):
    """How far an experiment has come."""

    NEW = "new"
    BEGUN = "begun"
    FINISHED = "finished"


def state(folder: Path) -> State:
    """How far the sweep in a folder has come.

    A tuned one is finished with the last of its final runs, which have a `sweep.json` once the
    tuning is over.

    Raises:
      UsageError: a file cannot be read.
    """
    if places.is_empty(folder):
        return State.NEW
    if (folder / places.REPLACEMENT).exists() or not (folder / places.RESULTS).exists():
        return State.BEGUN
    planned = reading.read(folder / places.SWEEP, forms.sweep)["runs"]
    done = len(reading.read_results(folder)) == len(planned)
    return State.FINISHED if done else State.BEGUN


def begin(folder: Path, asked: Mapping[str, Any], found: State) -> None:
    """Writes down what is asked for, or compares it with what was.

    Args:
      folder: of the experiment.
      asked: what is asked for now, JSON-ready.
      found: how far it has come.

    Raises:
      UsageError: the folder holds something else, or nothing can be written.
    """
    path = folder.with_name(f"{folder.name}.json")
    if found is State.NEW:
        with files.writing(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, asked)
        return
    try:
        before = json_files.read(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--out must hold what `python -m experiments` has left there, got {str(folder)!r} "
            f"without a readable {path.name}: {error}"
        ) from error
    if before != asked:
        raise UsageError(
            f"--out must be another directory, or {str(folder)!r} removed: what it holds was "
            f"begun with {_difference(before, asked)}"
        )


def _difference(before: Any, asked: Mapping[str, Any]) -> str:
    """What was asked for before, where it differs, in words."""
    then = before if isinstance(before, dict) else {}
    flags, now = (" ".join(map(str, one.get("flags", ()))) for one in (then, asked))
    return f"{flags}, got {now}" if flags != now else "other values of what is varied"
