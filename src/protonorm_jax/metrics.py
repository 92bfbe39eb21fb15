"""Numbers that people read, made on the host from what the devices counted."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # It brings jax, which those who only read metrics do without.
    from protonorm_jax.types import Partition, Scored

COMMON = "common"
"""What columns call the part of the samples scored that all clients share."""
VALIDATION = "validation"
"""The same of the samples that are set apart to choose rounds and settings by."""
TRAIN = "train"
"""The same of the samples that are trained on."""


def accuracy(correct: np.ndarray, test_count: np.ndarray) -> tuple[float, float]:
    """Mean over all test samples, and standard deviation over the clients that have any.

    Args:
      correct: `[num_clients]` right predictions.
      test_count: `[num_clients]` test samples.
    """
    tested = test_count > 0
    if not tested.any():
        return float("nan"), float("nan")
    mean = float(correct.sum() / test_count.sum())
    return mean, float(np.std(correct[tested] / test_count[tested]))


def class_counts(
    partition: "Partition", labels: np.ndarray, num_classes: int, *, side: str = "train"
) -> np.ndarray:
    """How many samples of each class a client holds.

    Args:
      partition: a partition of the samples that `labels` belongs to.
      labels: `[N]` integers in `[0, num_classes)`.
      num_classes: number of classes `C`.
      side: which of them: `train`, `test` or `validation`.

    Returns:
      `[M, C]` int64.
    """
    indices, count = getattr(partition, side), getattr(partition, f"{side}_count")
    if indices is None:
        return np.zeros((len(partition.train_count), num_classes), np.int64)
    return _counted(indices, 0, count, labels, num_classes)


def _counted(
    indices: np.ndarray,
    start: np.ndarray | int,
    count: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """`[M, C]` int64, the classes of `count` entries, from `start` on, of each row of indices."""
    place = np.arange(indices.shape[1]) - np.reshape(start, (-1, 1))
    client, column = np.nonzero((place >= 0) & (place < count[:, None]))
    cell = client * num_classes + np.asarray(labels)[indices[client, column]]
    return np.bincount(cell, minlength=len(count) * num_classes).reshape(len(count), num_classes)


def majority(
    partition: "Partition", scored: "Scored", labels: np.ndarray, num_classes: int
) -> dict[str, float | None]:
    """The accuracies of clients that have learned their label distribution and nothing else.

    Every client answers its most frequent training class (the lowest of several) to all samples
    that it is scored on. Personalised accuracies mean little unless they are well above this.

    Args:
      partition: a partition of the samples that `labels` belongs to.
      scored: the samples that clients are scored on.
      labels: `[N]` integers in `[0, num_classes)`.
      num_classes: number of classes.

    Returns:
      `majority_accuracy`, and with the name of the part those of other parts: correct over all
      samples of all clients; None if there are none.
    """
    guess = class_counts(partition, labels, num_classes).argmax(axis=1)
    result: dict[str, float | None] = {}
    ends = np.cumsum(scored.counts, axis=1)
    for number, part in enumerate(scored.parts):
        count = scored.counts[:, number]
        found = _counted(scored.rows, ends[:, number] - count, count, labels, num_classes)
        right, total = int(found[np.arange(len(guess)), guess].sum()), int(found.sum())
        result[column("majority", part)] = right / total if total else None
    return result


def column(predictor: str, part: str = "") -> str:
    """The name of the column with a predictor's accuracy on a part of the samples scored."""
    return f"{predictor}_{part}_accuracy" if part else f"{predictor}_accuracy"


def row(round_index: int, report: dict[str, Any], scored: "Scored") -> dict[str, Any]:
    """One evaluated round, JSON-ready; numbers that do not exist yet are None.

    Args:
      round_index: rounds finished.
      report: what `simulate.advance` reported, as numpy.
      scored: the samples that clients are scored on; the columns of each part have its name
        before `accuracy`, those of the part without a name have none.
    """
    result: dict[str, Any] = {"round": round_index}
    for name, correct in report["correct"].items():
        for number, part in enumerate(scored.parts):
            mean, deviation = accuracy(correct[:, number], scored.counts[:, number])
            result[column(name, part)] = mean
            result[f"{column(name, part)}_std"] = deviation
    trained = report["trained"]
    for name, values in report["terms"].items():
        result[name] = float(values[trained].mean()) if trained.any() else None
    arrived = report["arrived"]
    for name, value in report["server"].items():
        if np.ndim(value) == 0:  # Without an upload the server has done nothing.
            result[name] = value.item() if arrived.any() else None
    result["clients_trained"] = int(trained.sum())
    result["uploads_arrived"] = int(arrived.sum())
    for way in ("up", "down"):
        result[f"floats_{way}"] = int(report[f"floats_{way}"].sum(dtype=np.int64))
    for way in ("up", "down"):
        high, low = map(int, report["floats"][way])
        result[f"floats_{way}_total"] = high * 2**32 + low
    return {name: _finite(value) for name, value in result.items()}


def summary(rows: list[dict[str, Any]], predictor: str | None = None) -> dict[str, Any]:
    """Last and best value of every accuracy, and the last value of everything else.

    The best value is the best by test samples, as the reference codes report it: it flatters.
    Where validation samples are set apart, there are also the round that they select and every
    accuracy in it (`NAME_accuracy_selected`).

    Args:
      rows: of the evaluated rounds.
      predictor: the method's own, whose validation accuracy selects the round.
    """
    if not rows:
        return {"rounds": 0}
    result = dict(rows[-1])
    result["rounds"] = result.pop("round")
    names = [name for name in rows[-1] if name.endswith("_accuracy")]
    for name in names:
        if not name.endswith((column("", VALIDATION), column("", TRAIN))):
            values = [row[name] for row in rows if row[name] is not None]
            result[f"{name}_best"] = max(values) if values else None
    if predictor is not None and column(predictor, VALIDATION) in rows[-1]:
        chosen = selected(rows, predictor)
        result["selected_round"] = chosen["round"]
        result |= {f"{name}_selected": chosen[name] for name in names}
    return result


def selected(rows: Sequence[Mapping[str, Any]], predictor: str) -> Mapping[str, Any]:
    """The row with the best validation accuracy of a predictor, the first of equals."""
    name = column(predictor, VALIDATION)
    return max(rows, key=lambda row: -1.0 if row[name] is None else row[name])


def diverged(summary: Mapping[str, Any]) -> bool:
    """Whether a run has failed since its loss was not finite, and not of a full disk, say."""
    error = str(summary.get("error") or "finite")
    return summary.get("status") == "failed" and "finite" in error


def predictors(row: Mapping[str, Any]) -> list[str]:
    """The predictors whose accuracies a row or summary has: prototypes, the head, then others."""
    names = [name.removesuffix("_accuracy") for name in row if name.endswith("_accuracy")]
    parts = tuple(f"_{part}" for part in (COMMON, VALIDATION, TRAIN))
    names = [name for name in names if not name.endswith(parts)]
    first = ("prototype", "head")
    own = [name for name in names if name not in (*first, "majority")]
    return [name for name in first if name in names] + own


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
