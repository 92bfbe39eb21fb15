"""Who holds what: listed in a run's manifest, or of many clients as arrays in a file beside it."""

from typing import Any

import numpy as np

from protonorm_jax import metrics
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import directory as places

MOST_LISTED = 1000
"""Clients that a manifest lists; it takes 200 bytes and more for each of them."""


def held(plan: Plan, index: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many samples of each class the clients of run `index` hold.

    Returns:
      Three arrays `[num_clients, num_classes]` int64: of training, test and validation samples.
    """
    parts, dataset = plan.runs[index].partition, plan.dataset

    def counts(side: str) -> np.ndarray:
        return metrics.class_counts(parts, dataset.labels, dataset.num_classes, side=side)

    return counts("train"), counts("test"), counts("validation")


def described(plan: Plan, index: int) -> dict[str, Any]:
    """What the manifest of run `index` says of its clients.

    Returns:
      `clients`, of each its architecture and its samples, in all and of the classes it holds; or
      of more than `MOST_LISTED` `clients_in`, the name of the file that has `arrays`.
    """
    if _are_many(plan):
        return {"clients_in": places.HOLDINGS}

    def by_class(counts: np.ndarray) -> dict[str, int]:
        return {str(label): int(counts[label]) for label in np.flatnonzero(counts)}

    run = plan.runs[index]
    counts = zip(plan.architectures, *held(plan, index), strict=True)
    clients = [
        ({"name": run.names[client]} if run.names else {})
        | {
            "architecture": architecture,
            "train_samples": int(train.sum()),
            "test_samples": int(test.sum()),
            "train_by_class": by_class(train),
            "test_by_class": by_class(test),
        }
        | (
            {"validation_samples": int(apart.sum()), "validation_by_class": by_class(apart)}
            if run.partition.validation is not None
            else {}
        )
        for client, (architecture, train, test, apart) in enumerate(counts)
    ]
    return {"clients": clients}


def arrays(plan: Plan, index: int) -> dict[str, np.ndarray]:
    """What there is in a file of its own of the clients of run `index`, if they are that many.

    Returns:
      Nothing; or `train` and `test` and, if there is any, `validation`, samples of each class
      `[M, C]` of the smallest unsigned integers that hold them, and texts `[M]`: `architecture`
      and, if clients have names, `name`.
    """
    if not _are_many(plan):
        return {}
    run = plan.runs[index]
    counts = dict(zip(("train", "test", "validation"), held(plan, index), strict=True))
    if run.partition.validation is None:
        del counts["validation"]
    result = {
        name: one.astype(np.min_scalar_type(int(one.max(initial=0))))
        for name, one in counts.items()
    }
    result["architecture"] = np.array(plan.architectures)
    if run.names:
        result["name"] = np.array(run.names)
    return result


def _are_many(plan: Plan) -> bool:
    return len(plan.architectures) > MOST_LISTED
