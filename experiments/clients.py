"""The number of clients, and the share of them that takes part in a round.

With more clients each holds fewer samples, so that numbers of different columns are not
comparable; the question is how far methods stay ahead of local training. Every number of clients
is a program of its own, all participations share it.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments clients
    Time: not measured yet
    Result: not run yet

Full, CIFAR-10, family `ht0`:

    Command: python -m experiments clients --size full
    Time: not measured yet
    Result: not run. No published numbers were at hand.
"""

from experiments import Sweep

METHODS = ["local", "fedproto", "protonorm"]

SIZES = {
    "quick": Sweep(
        base={
            "data": "digits",
            "alpha": 0.5,  # With 0.1, 40 clients would not get ten samples each.
            "family": "mlp,cnn",
            "rounds": 30,
            "eval_every": 5,
            "validation_fraction": 0.15,
        },
        grids=[{"num_clients": [10, 20, 40], "participation": [0.3, 1.0], "method": METHODS}],
        seeds=4,
    ),
    "full": Sweep(
        base={
            "data": "tfds:cifar10",
            "family": "ht0",
            "rounds": 300,
            "eval_every": 10,
            "validation_fraction": 0.15,
        },
        grids=[{"num_clients": [20, 50, 100], "participation": [0.1, 0.5, 1.0], "method": METHODS}],
        seeds=5,
    ),
}
