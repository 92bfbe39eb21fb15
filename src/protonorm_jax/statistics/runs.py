"""One recorded run: the number that it is quoted with, and how its clients fared."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import metrics

TEST = "test"
"""What `clients.npz` calls the samples that the columns without a part are of."""


class Run(NamedTuple):
    """A run as it was recorded.

    Attributes:
      name: its directory as the user gave it.
      config: all settings.
      summary: how it ended; of a run that did not, what its rows say, and `status`.
      rows: of each evaluated round.
      manifest: versions, digests, who holds what; may be empty.
      clients: arrays of `clients.npz`: `parts` `[P]`, `count` `[M, P]`, `rounds` `[K]`, and for
        each predictor `PREDICTOR_correct` `[K, M, P]`; may be empty.
      changes: of a run of a sweep, the settings in which it may differ from the others.
      cell: of a tuned run, those of `changes` that were not tuned, but for the seed.
      choice: of a tuned run, what `choices.json` says of its cell: `point`, `tried`, `seconds`...
    """

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    manifest: dict[str, Any]
    clients: dict[str, np.ndarray]
    changes: dict[str, Any]
    cell: dict[str, Any] | None = None
    choice: dict[str, Any] | None = None


class Outcome(NamedTuple):
    """What a run is quoted with.

    Attributes:
      value: share of right answers to all test samples of all clients, in [0, 1]: by the method's
        own predictor, in the round selected on validation samples, else the last; of a run that has
        diverged the yardstick's. None if it is not known.
      diverged: whether the run has.
      round: that the value is of; None if the run has diverged.
    """

    value: float | None
    diverged: bool
    round: int | None


def outcome(run: Run) -> Outcome:
    """The primary outcome of a run, see `Outcome`."""
    if has_diverged(run):
        return Outcome(yardstick(run), True, None)
    value = quoted(run, column(run))
    return Outcome(value, False, quoted_round(run) if value is not None else None)


def has_diverged(run: Run) -> bool:
    """See `metrics.diverged`."""
    return metrics.diverged(run.summary)


def predictor(run: Run) -> str:
    """The method's own predictor, as in its paper."""
    return str(run.summary.get("predictor") or "head")


def column(run: Run, name: str = "", part: str = "") -> str:
    """The column of a predictor's accuracy on a part of the samples.

    Args:
      run: whose.
      name: of the predictor; by default the method's own.
      part: `metrics.VALIDATION` or `metrics.TRAIN`; by default test samples.
    """
    return metrics.column(name or predictor(run), part)


def quoted(run: Run, name: str) -> float | None:
    """The value of a column in the round that the run is quoted with."""
    selected = run.summary.get("selected_round") is not None
    return run.summary.get(f"{name}_selected" if selected else name)


def quoted_round(run: Run) -> int | None:
    """The round selected on validation samples; without any, the last."""
    selected = run.summary.get("selected_round")
    return run.summary.get("rounds") if selected is None else selected


def yardstick(run: Run, part: str = "") -> float | None:
    """The accuracy of guessing each client's most frequent class; None if it is not known.

    Args:
      run: whose.
      part: as for `column`.
    """
    name = column(run, "majority", part)
    for record in (run.summary, run.manifest):
        if record.get(name) is not None:
            return record[name]
    guessed = None if part else _guessed(run)
    if guessed is None or not guessed[1].sum():
        return None
    return float(guessed[0].sum() / guessed[1].sum())


def clients_right(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """How many test samples each client gets right, and has, in the round the run is quoted with.

    Of a run that has diverged, what the yardstick gets right.

    Returns:
      Two arrays `[M]` of integers, or None if it is not recorded.
    """
    if has_diverged(run):
        return _guessed(run)
    arrays = run.clients
    right = arrays.get(f"{predictor(run)}_correct")
    parts = list(arrays.get("parts", ()))
    if right is None or TEST not in parts or arrays["rounds"][0] != quoted_round(run):
        return None
    number = parts.index(TEST)
    return right[0, :, number].astype(np.int64), arrays["count"][:, number].astype(np.int64)


def _guessed(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """As `clients_right`, of clients that guess their most frequent class, the lowest of equals."""
    clients: Sequence[Mapping[str, Any]] = run.manifest.get("clients", ())
    if run.config.get("evaluate_on") == "common":  # Which samples these are is not recorded.
        return None
    if not clients or not all("test_by_class" in one for one in clients):
        return None
    right = []
    for one in clients:
        counts = {int(label): count for label, count in one["train_by_class"].items()}
        guess = min(counts, key=lambda label: (-counts[label], label), default=-1)
        right.append(one["test_by_class"].get(str(guess), 0))
    return np.array(right), np.array([one["test_samples"] for one in clients])


def predictors(run: Run) -> list[str]:
    """The predictors whose accuracies a run has, the method's own first."""
    found = metrics.predictors(run.summary)
    return sorted(found, key=lambda name: name != predictor(run))
