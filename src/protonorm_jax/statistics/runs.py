"""One recorded run: the number that it is quoted with, and how its clients fared."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
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
      holdings: arrays of `holdings.npz`, which has in place of `manifest` what many clients hold:
        `train` and `test` `[M, C]`, and `name` `[M]` if they have names; or empty.
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
    holdings: Mapping[str, np.ndarray] = MappingProxyType({})


class Held(NamedTuple):
    """Who holds what.

    Attributes:
      names: of the clients.
      train: `[M, C]` int64, training samples of each class.
      test: `[M, C]` int64, test samples; None if it is not recorded.
    """

    names: list[str]
    train: np.ndarray
    test: np.ndarray | None


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


def held(run: Run) -> Held | None:
    """What each client holds of each class; None if it is not recorded."""
    if run.holdings:
        train, test = (run.holdings[name].astype(np.int64) for name in ("train", "test"))
        numbers = run.holdings.get("name", np.arange(len(train)))
        return Held([str(name) for name in numbers.tolist()], train, test)
    clients: Sequence[Mapping[str, Any]] = run.manifest.get("clients", ())
    if not clients or not all("train_by_class" in one for one in clients):
        return None
    parts = ("train_by_class", "test_by_class")
    labels = [int(label) for one in clients for part in parts for label in one.get(part, ())]
    train, test = np.zeros((2, len(clients), max(labels, default=0) + 1), np.int64)
    for counts, part in ((train, parts[0]), (test, parts[1])):
        for client, one in enumerate(clients):
            for label, count in one.get(part, {}).items():
                counts[client, int(label)] = count
    names = [str(one.get("name", client)) for client, one in enumerate(clients)]
    return Held(names, train, test if all(parts[1] in one for one in clients) else None)


def _guessed(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """As `clients_right`, of clients that guess their most frequent class, the lowest of equals."""
    found = held(run)
    if run.config.get("evaluate_on") == "common":  # Which samples these are is not recorded.
        return None
    if found is None or found.test is None:
        return None
    guess = found.train.argmax(axis=1)
    right = np.where(found.train.any(axis=1), found.test[np.arange(len(guess)), guess], 0)
    return right, found.test.sum(axis=1)


def predictors(run: Run) -> list[str]:
    """The predictors whose accuracies a run has, the method's own first."""
    found = metrics.predictors(run.summary)
    return sorted(found, key=lambda name: name != predictor(run))
