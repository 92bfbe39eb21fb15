"""How unequal clients are: Dirichlet splits from skewed to even, and a fixed number of classes.

The more even the split, the lower the yardstick of the most frequent class, so that the numbers of
different partitions are not comparable with each other, only methods on one partition. All
partitions share the programs of their methods.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments heterogeneity
    Time: not measured yet
    Result: not run yet

Full, CIFAR-10, family `ht0`:

    Command: python -m experiments heterogeneity --size full
    Time: not measured yet
    Result: not run. No published numbers of these nets were at hand.
"""

from experiments import Sweep

METHODS = ["local", "fedproto", "protonorm"]

SIZES = {
    "quick": Sweep(
        base={
            "data": "digits",
            "family": "mlp,cnn",
            "rounds": 30,
            "eval_every": 5,
            "validation_fraction": 0.15,
        },
        grids=[
            {"alpha": [0.1, 0.3, 1.0, 10.0], "method": METHODS},
            {"partition": ["pathological"], "classes_per_client": [2, 5], "method": METHODS},
        ],
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
        grids=[
            {"alpha": [0.01, 0.1, 0.3, 1.0, 10.0], "method": METHODS},
            {"partition": ["pathological"], "classes_per_client": [2, 5], "method": METHODS},
        ],
        seeds=5,
    ),
}
