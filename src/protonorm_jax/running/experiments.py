"""Tuned experiments as they are read: what was tried, and what was chosen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax import json_files
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import forms, reading

TUNING, CHOICES, TRIALS = "tuning.json", "choices.json", "tuning"


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
    if not (directory / TUNING).exists():
        return None
    choices, done = [], 0
    if (directory / CHOICES).exists():
        choices = reading.read(directory / CHOICES, _choices)
    if (directory / TRIALS / places.RESULTS).exists():
        done = len(reading.read_results(directory / TRIALS))
    described = reading.read(directory / TUNING, _tuning)
    return Experiment(str(name), described, choices, done, (directory / places.SWEEP).exists())


def check_directory(name: str | Path) -> None:
    """Refuses a directory that holds nothing of ours.

    Raises:
      UsageError: it holds no run, no sweep and no tuned experiment.
    """
    known = (places.CONFIG, places.SWEEP, TUNING)
    if not any((Path(name) / one).is_file() for one in known):
        raise UsageError(
            "DIR must be the directory of a run, a sweep or a tuned experiment, with "
            f"{', '.join(known[:-1])} or {known[-1]}, got {str(name)!r}"
        )


def _tuning(text: str) -> dict[str, Any]:
    """Of `tuning.json`."""
    value = forms.one_object(text)
    for name in ("seeds", "final_seeds", "cells"):
        _require(value, name, list, "a list")
    _require(value, "tune", int, "an integer")
    for cell in value["cells"]:
        _require(cell, "changes", dict, "an object")
        _require(cell, "ranges", dict, "an object")
        _require(cell, "points", list, "a list")
    return value


def _choices(text: str) -> list[dict[str, Any]]:
    """Of `choices.json`."""
    value = json_files.parse(text)
    if not isinstance(value, list):
        raise ValueError(f"it must be a list, is {json_files.kind(value)}")
    for one in value:
        _require(one, "changes", dict, "an object")
        _require(one, "point", dict, "an object")
        _require(one, "tried", list, "a list")
        _require(one, "chosen", int, "an integer")
        for each in one["tried"]:
            _require(each, "point", dict, "an object")
            for name in ("validation_accuracy", "test_accuracy", "seconds"):
                _require(each, name, int | float | None, "a number or null")
            _require(each, "diverged", int, "an integer")
        if not 0 <= one["chosen"] < len(one["tried"]):
            raise ValueError(f"chosen must be the number of a point, got {one['chosen']}")
    return value


def _require(value: Any, name: str, kind: Any, words: str) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"each entry must be an object, is {json_files.kind(value)}")
    found = value.get(name)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise ValueError(f"{name} must be {words}, got {repr(found)[:60]}")
