"""Local epochs: how long clients train between two exchanges, in equally many rounds.

More epochs are more training, so that arms are to be compared with local training of as many
epochs: what is left is what the exchange brings. Every number of epochs is a program of its own.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments local_epochs
    Time: not measured yet
    Result: not run yet

Full, CIFAR-10, family `ht0`:

    Command: python -m experiments local_epochs --size full
    Time: not measured yet
    Result: not run. The published codes have one epoch a round.
"""

from experiments import Sweep

METHODS = ["local", "fedproto", "protonorm"]

SIZES = {
    "quick": Sweep(
        base={
            "data": "digits",
            "family": "mlp,cnn",
            "rounds": 20,
            "eval_every": 2,
            "validation_fraction": 0.15,
        },
        grids=[{"local_epochs": [1, 2, 5], "method": METHODS}],
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
        grids=[{"local_epochs": [1, 5, 10], "method": METHODS}],
        seeds=5,
    ),
}
