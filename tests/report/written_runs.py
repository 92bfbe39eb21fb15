"""Directories of runs as they would have been recorded, without any training."""

import hashlib
import json

import numpy as np

ROUNDS, CLASSES = 12, 5
# Method: accuracy at the end, rounds to get there, numbers sent in a round, own predictor.
METHODS = {
    "protonorm": (0.86, 3.0, 900, "prototype"),
    "fedproto": (0.83, 4.0, 900, "prototype"),
    "fedtgp": (0.845, 5.0, 1900, "prototype"),
    "fd": (0.81, 3.0, 120, "head"),
    "local": (0.79, 2.0, 0, "head"),
}
YARDSTICK = 0.62


def write(path, value):
    path.write_text(json.dumps(value) + "\n")


def digest(*words):
    return hashlib.sha256(repr(words).encode()).hexdigest()


def config(method="local", seed=0, **changes):
    own = {"scale": 20.0} if method == "protonorm" else {}
    return {
        **{"data": "digits", "num_clients": 6, "partition": "dirichlet", "alpha": 0.1},
        **{"min_samples": 10, "train_fraction": 0.75, "validation_fraction": 0.2},
        **{"split": "joined", "evaluate_on": "own", "sizes": ""},
        **{"method": method, "method_settings": own, "fidelity": "paper", "family": "mlp"},
        **{"rounds": ROUNDS, "learning_rate": 0.01, "batch_size": 32, "optimizer": "sgd"},
        **{"participation": 1.0, "dropout": 0.0, "failures": 0.0, "stragglers": 0.0},
        **{"seed": seed, "eval_every": 1, "keep_features": 0, "pooled_clients": 0, "devices": 1},
        **changes,
    }


def write_run(
    directory,
    method="local",
    seed=0,
    *,
    status="finished",
    names=None,
    features=0,
    old=False,
    gain=0.0,
    **changes,
):
    """Writes a run, and returns its summary.

    Args:
      directory: of it, made here.
      method: one of `METHODS`, or any other name.
      seed: of it.
      status: `failed` for one that diverged in the sixth round, `running` for one without an end.
      names: of the clients.
      features: how many are kept.
      old: as runs were recorded before there were validation samples.
      gain: added to its accuracies.
      **changes: of its settings.
    """
    directory.mkdir(parents=True)
    settings = config(method, seed, **({"validation_fraction": 0.0} if old else {}) | changes)
    generator = np.random.default_rng([seed, len(method), *method.encode()[:2]])
    top, pace, sent, predictor = METHODS.get(method, (0.8, 3.0, 500, "head"))
    if settings["pooled_clients"]:
        top = 0.93
    # The seed's share of luck is the same for all methods.
    top += gain + 0.02 * np.random.default_rng(seed).normal()
    clients = settings["num_clients"]
    counts = np.random.default_rng([seed, 1]).integers(1, 40, (clients, CLASSES))
    counts *= np.random.default_rng([seed, 2]).random((clients, CLASSES)) < 0.5
    counts[:, 0] += 3
    test = 1 + counts // 3
    ended = 5 if status in ("failed", "running") else settings["rounds"]
    rows = []
    for index in range(1, ended + 1):
        level = top - (top - 0.4) * np.exp(-index / pace)
        row = {"round": index}
        for name in dict.fromkeys((predictor, "head")):
            lower = 0.0 if name == predictor else 0.03
            for part in ("", *(() if old else ("validation_", "train_"))):
                value = float(np.clip(level - lower + 0.01 * generator.normal(), 0, 1))
                row[f"{name}_{part}accuracy"] = value
                row[f"{name}_{part}accuracy_std"] = 0.1
        row |= {"loss": 1 / index, "floats_up": sent, "floats_down": sent}
        row |= {"floats_up_total": sent * index, "floats_down_total": sent * index}
        rows.append(row)
    write(directory / "config.json", settings)
    write(
        directory / "manifest.json",
        {
            "versions": {"protonorm_jax": "0.1.0", "jax": "0.10.2", "python": "3.11.7"},
            "device": {"platform": "cpu", "kind": "cpu", "count": 1},
            "git_commit": "0" * 40,
            "config_digest": digest(settings)[:16],
            "data_digest": digest(settings["data"]),
            "partition_digest": digest(settings["data"], settings["alpha"], seed),
            "started": "2026-11-26T00:55:49Z",
            "majority_accuracy": YARDSTICK,
            "predictor": predictor,
            "clients": [
                ({"name": names[client % len(names)]} if names else {})
                | {"architecture": "mlp"}
                | {"train_samples": int(counts[client].sum())}
                | {"test_samples": int(test[client].sum())}
                | {"train_by_class": {str(k): int(v) for k, v in enumerate(counts[client]) if v}}
                | {"test_by_class": {str(k): int(v) for k, v in enumerate(test[client])}}
                for client in range(clients)
            ],
        },
    )
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if status == "running":
        return {}
    summary = {
        "method": method,
        **{name: value for name, value in rows[-1].items() if name != "round"},
        "rounds": ended,
        "majority_accuracy": YARDSTICK,
        "seconds": 2.5,
        "compile_seconds": 1.5,
        "status": status,
    }
    columns = [name for name in rows[-1] if name.endswith("_accuracy")]
    summary |= {f"{name}_best": max(row[name] for row in rows) for name in columns}
    if not old:
        best = max(rows, key=lambda row: row[f"{predictor}_validation_accuracy"])
        summary |= {"predictor": predictor, "selected_round": best["round"]}
        summary |= {f"{name}_selected": best[name] for name in columns}
    if status == "failed":
        summary["error"] = "the loss of round 6 is not finite"
    write(directory / "summary.json", summary)
    if status == "finished" and not old:
        total = test.sum(1)
        level = summary[f"{predictor}_accuracy_selected"]
        right = np.random.default_rng([seed, 3]).binomial(total, level)
        np.savez(
            directory / "clients.npz",
            parts=np.array(["test"]),
            count=total[:, None].astype(np.int32),
            rounds=np.array([summary["selected_round"], ended], np.int32),
            **{f"{predictor}_correct": np.stack([right, right])[..., None].astype(np.int32)},
        )
    if predictor == "prototype" and status == "finished":
        means = generator.normal(size=(CLASSES, 8)).astype(np.float32) + 1
        prototypes = means - means.mean(0)
        known = np.ones(CLASSES, bool)
        np.savez(
            directory / "prototypes.npz", prototypes=prototypes, class_means=means, known=known
        )
        if features:
            labels = np.arange(features) % CLASSES
            found = prototypes[labels] + 0.4 * generator.normal(size=(features, 8))
            np.savez(
                directory / "features.npz",
                features=found.astype(np.float32),
                labels=labels.astype(np.int32),
                clients=(labels % clients).astype(np.int32),
            )
    return summary


def write_sweep(directory, runs, **options):
    """Writes a sweep.

    Args:
      directory: of it, made here.
      runs: the changes of each of its runs; `status` is no setting, and `not begun` leaves it out.
      **options: of `write_run`.
    """
    directory.mkdir(parents=True)
    changes = [{name: one[name] for name in one if name != "status"} for one in runs]
    described = {"base": config(), "runs": changes, "runs_per_program": [1], "vmap_runs": 1}
    write(directory / "sweep.json", described)
    lines = []
    for number, one in enumerate(runs):
        if one.get("status") == "not begun":
            continue
        summary = write_run(directory / "runs" / f"{number:04d}", **{**options, **one})
        if summary:
            lines.append({"run": f"{number:04d}", **changes[number], **summary})
    (directory / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def write_experiment(directory, methods=("protonorm", "fedproto", "local"), seeds=3, points=6):
    """Writes a tuned experiment, whose last point diverges."""
    rates = [float(f"{0.001 * 3**k:.3g}") for k in range(points)]
    cells, choices, runs = [], [], []
    for number, method in enumerate(methods):
        tried = [
            {
                "point": {"learning_rate": rate},
                "validation_accuracy": None if k == points - 1 else 0.7 + 0.03 * ((k + number) % 4),
                "test_accuracy": YARDSTICK if k == points - 1 else 0.69 + 0.03 * ((k + number) % 4),
                "diverged": int(k == points - 1),
                "seconds": 4.0,
            }
            for k, rate in enumerate(rates)
        ]
        known = [
            -1 if one["validation_accuracy"] is None else one["validation_accuracy"]
            for one in tried
        ]
        chosen = int(np.argmax(known))
        point = tried[chosen]["point"]
        cells.append(
            {
                "changes": {"method": method},
                "ranges": {"learning_rate": {"values": rates}},
                "points": [one["point"] for one in tried],
            }
        )
        choices.append(
            {
                "changes": {"method": method},
                "chosen": chosen,
                "point": point,
                "tried": tried,
                "edges": ["learning_rate"] if chosen in (0, points - 1) else [],
                "seconds": 4.0 * points,
            }
        )
        runs += [{"method": method, **point, "seed": seed} for seed in range(seeds)]
    write_sweep(directory, runs)
    write(
        directory / "tuning.json",
        {
            **{"format": 1, "tune": points, "seeds": [1000], "rounds": ROUNDS},
            **{"final_seeds": list(range(seeds)), "learning_rates": rates, "cells": cells},
            **{"base": config(), "runs_per_program": 0, "vmap_runs": 0},
            "data_digests": [digest("digits")] * len(cells),
        },
    )
    write(directory / "choices.json", choices)
    return choices
