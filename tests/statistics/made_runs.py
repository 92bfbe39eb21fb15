"""Records of runs as the statistics take them, made up."""

import numpy as np

from protonorm_jax.statistics import Run

CONFIG = {
    "data": "digits",
    "num_clients": 4,
    "partition": "dirichlet",
    "alpha": 0.1,
    "classes_per_client": 2,
    "min_samples": 10,
    "train_fraction": 0.75,
    "validation_fraction": 0.2,
    "sizes": "",
    "split": "joined",
    "evaluate_on": "own",
    "family": "tiny",
    "rounds": 10,
    "eval_every": 5,
    "participation": 1.0,
    "dropout": 0.0,
    "stragglers": 0.0,
    "straggler_work": 0.2,
    "pooled_clients": 0,
    "learning_rate": 0.01,
    "local_epochs": 1,
    "optimizer": "sgd",
    "precision": "float32",
    "devices": 0,
    "checkpoint_every": 0,
}
OWN = {"protonorm": "prototype", "fedproto": "prototype"}


def run(
    method="local",
    seed=0,
    value=0.5,
    *,
    name=None,
    settings=None,
    digest="d" * 64,
    shares=None,
    commit="c" * 40,
    rows=None,
    right=None,
    count=None,
    cell=None,
    changes=None,
    choice=None,
    summary=None,
    **changed,
):
    """A run with an accuracy of `value` by its own predictor in round 5, and 0.1 in round 10.

    `digest` is of the data, `shares` of the partition; `right` and `count` are of clients.
    """
    own = OWN.get(method, "head")
    config = CONFIG | {"method": method, "method_settings": settings or {}, "seed": seed} | changed
    selects = bool(config["validation_fraction"])
    ended = {
        "method": method,
        "predictor": own,
        "rounds": config["rounds"],
        "status": "finished",
        "majority_accuracy": 0.3,
        f"{own}_accuracy": 0.1 if selects else value,
        f"{own}_accuracy_best": 0.9,
        "seconds": 2.0,
        "compile_seconds": 3.0,
    }
    if selects:
        ended |= {"selected_round": 5, f"{own}_accuracy_selected": value}
        ended |= {f"{own}_validation_accuracy": 0.2, f"{own}_validation_accuracy_selected": 0.6}
    arrays = {}
    if right is not None:
        rounds = np.array([5, 10] if selects else [10], np.int32)
        correct = np.zeros((len(rounds), len(right), 2), np.int32)
        correct[0, :, 1] = right
        counts = np.stack([np.full(len(right), 7), count], axis=1).astype(np.int32)
        parts = np.array(["validation", "test"])
        arrays = {"parts": parts, "count": counts, "rounds": rounds, f"{own}_correct": correct}
    manifest = {
        "data_digest": digest,
        "partition_digest": f"{seed}" if shares is None else shares,
        "git_commit": commit,
        "versions": {"jax": "1"},
        "device": {"kind": "cpu"},
    }
    return Run(
        name=name or f"{method}-{seed}",
        config=config,
        summary=ended | (summary or {}),
        rows=rows or [],
        manifest=manifest,
        clients=arrays,
        changes=changes or {},
        cell=cell,
        choice=choice,
    )


def diverged(*args, **more):
    """A run that has."""
    error = "loss must be finite, got a value that is not from client 1 in round 2"
    return run(*args, **more, summary={"status": "failed", "error": error, "rounds": 1})
