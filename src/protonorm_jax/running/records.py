"""Recorded runs as flat records, settings and results by name: for tables of any kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax import config, metrics
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import forms, holders, reading, states

# Of a summary or a row of `results.jsonl`: what is in every record anyway.
_ELSEWHERE = ("run", "config_digest", "method", "status", "rounds")


class Record(NamedTuple):
    """One run.

    Attributes:
      directory: of the run.
      status: what has become of it, see `states.STATUSES`.
      settings: all fields of `Config`, but in the place of `method_settings` those of the run's
        method by their plain names; what an older version did not write has its default.
      results: the fields of `summary.json`, of a run that has not ended those that its rows come
        to; `rounds_done`, which is `rounds` there; and `accuracy` and `accuracy_selected`, by the
        predictor of the method's own paper. Of what is damaged the `error` alone.
    """

    directory: str
    status: str
    settings: dict[str, Any]
    results: dict[str, Any]

    def flat(self) -> dict[str, Any]:
        """All of it by name. What has no value is left out."""
        values = {"directory": self.directory, "status": self.status}
        values |= self.settings
        values |= {name: value for name, value in self.results.items() if name not in values}
        return {name: value for name, value in values.items() if value is not None}


def read(directories: Sequence[str | Path]) -> list[Record]:
    """The records of all runs in some directories or below them, whatever has become of them.

    Of a sweep these are all of its runs, and of a tuned experiment the final ones.

    Raises:
      UsageError: a directory that there is not, or that has nothing of ours.
    """
    result = []
    for entry in states.read(directories, holders.Pulse()):
        try:
            result += _read(entry)
        except UsageError as error:
            result.append(_damaged(entry.directory, str(error)))
    return result


def _read(entry: states.Entry) -> list[Record]:
    if entry.status == states.DAMAGED:
        return [_damaged(entry.directory, entry.error)]
    if entry.kind == "run":
        return [_record(entry.runs[0])]
    if not (entry.directory / places.SWEEP).exists():  # It is still being tuned.
        return []
    described = reading.read(entry.directory / places.SWEEP, forms.sweep)
    final = entry.runs[entry.num_tried :]
    result = []
    for run, changes in zip(final, described["runs"], strict=True):
        if (run.directory / places.CONFIG).exists():
            result.append(_record(run))
        else:
            settings = _settings(_changed(described["base"], changes))
            result.append(Record(str(run.directory), run.status, settings, {}))
    return result


def _damaged(directory: Path, error: str) -> Record:
    return Record(str(directory), states.DAMAGED, {}, {"error": error})


def _record(run: states.Run) -> Record:
    """Of a run that has begun."""
    try:
        return _record_of(run)
    except UsageError as error:
        return _damaged(run.directory, run.error or str(error))


def _record_of(run: states.Run) -> Record:
    settings = _settings(reading.read(run.directory / places.CONFIG, forms.config))
    status, summary = run.status, _summary(run)
    if summary.get("status") in states.ENDED:  # Also of a run that goes on to more rounds.
        status = states.DIVERGED if metrics.diverged(summary) else summary["status"]
    results = {name: value for name, value in summary.items() if name not in _ELSEWHERE}
    results["rounds_done"] = summary.get("rounds") or 0
    own = summary.get("predictor") or reading.own_predictor(settings["method"], summary)
    for ending in ("accuracy", "accuracy_selected"):
        if f"{own}_{ending}" in summary:
            results[ending] = summary[f"{own}_{ending}"]
    return Record(str(run.directory), status, settings, results)


def _summary(run: states.Run) -> dict[str, Any]:
    """How a run has ended, or what its rows come to so far."""
    if (run.directory / places.SUMMARY).exists():
        return reading.read_summary(run.directory)
    if not (run.directory / places.ROWS).exists():
        return {}
    manifest = reading.read_manifest(run.directory)
    known = ("predictor", "majority_accuracy")
    return metrics.summary(reading.read_rows(run.directory), manifest.get("predictor")) | {
        name: manifest[name] for name in known if name in manifest
    }


def _settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    values = config.as_recorded(recorded)
    return values | values.pop("method_settings")


def _changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run of a sweep that has not begun, as far as they are recorded."""
    values = config.as_recorded(base)
    if changes.get("method", values["method"]) != values["method"]:
        values["method_settings"] = {}
    for name, value in changes.items():
        plain = name.rpartition(".")[2]
        owner = values if plain in values else values["method_settings"]
        owner[plain] = value
    return values
