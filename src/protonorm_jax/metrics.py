"""Numbers that people read, made on the host from what the devices counted."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from protonorm_jax.types import Partition


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
    partition: Partition, labels: np.ndarray, num_classes: int, *, test: bool = False
) -> np.ndarray:
    """How many training (or test) samples of each class a client holds.

    Args:
      partition: a partition of the samples that `labels` belongs to.
      labels: `[N]` integers in `[0, num_classes)`.
      num_classes: number of classes `C`.
      test: count the test samples instead.

    Returns:
      `[M, C]` int64.
    """
    indices = partition.test if test else partition.train
    count = partition.test_count if test else partition.train_count
    client, column = np.nonzero(np.arange(indices.shape[1]) < count[:, None])
    cell = client * num_classes + np.asarray(labels)[indices[client, column]]
    return np.bincount(cell, minlength=len(count) * num_classes).reshape(len(count), num_classes)


def majority_accuracy(partition: Partition, labels: np.ndarray, num_classes: int) -> float:
    """The accuracy of a client that has learned its label distribution and nothing else.

    Every client answers its most frequent training class (the lowest of several) to all its test
    samples. Personalised accuracies mean little unless they are well above this.

    Args:
      partition: a partition of the samples that `labels` belongs to.
      labels: `[N]` integers in `[0, num_classes)`.
      num_classes: number of classes.

    Returns:
      Correct over all test samples of all clients; NaN if there are none.
    """
    guess = class_counts(partition, labels, num_classes).argmax(axis=1)
    test = class_counts(partition, labels, num_classes, test=True)
    total = int(test.sum())
    return float(test[np.arange(len(guess)), guess].sum() / total) if total else float("nan")


def row(round_index: int, report: dict[str, Any], test_count: np.ndarray) -> dict[str, Any]:
    """One evaluated round, JSON-ready; numbers that do not exist yet are None.

    Args:
      round_index: rounds finished.
      report: what `simulate.advance` reported, as numpy.
      test_count: `[num_clients]`.
    """
    result: dict[str, Any] = {"round": round_index}
    for name, correct in report["correct"].items():
        mean, deviation = accuracy(correct, test_count)
        result[f"{name}_accuracy"] = mean
        result[f"{name}_accuracy_std"] = deviation
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


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Last and best value of every accuracy, and the last value of everything else."""
    if not rows:
        return {"rounds": 0}
    result = dict(rows[-1])
    result["rounds"] = result.pop("round")
    for name in rows[-1]:
        if name.endswith("_accuracy"):
            values = [row[name] for row in rows if row[name] is not None]
            result[f"{name}_best"] = max(values) if values else None
    return result


def predictors(row: Mapping[str, Any]) -> list[str]:
    """The predictors whose accuracies a row or summary has: prototypes, the head, then others."""
    names = [name.removesuffix("_accuracy") for name in row if name.endswith("_accuracy")]
    first = ("prototype", "head")
    own = [name for name in names if name not in (*first, "majority")]
    return [name for name in first if name in names] + own


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
