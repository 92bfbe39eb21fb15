"""How unequal clients are: Dirichlet splits from skewed to even, and a fixed number of classes.

The more even the split, the lower the yardstick of the most frequent class, so that the numbers of
different partitions are not comparable with each other, only methods on one partition. All
partitions share the programs of their methods.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments heterogeneity
    Time: 26 seconds on two idle cores
    Result: test accuracy, %, of the selected round, mean of 4 seeds and half its 95 % t interval:

                   alpha 0.1    0.3         1           10          2 classes   5 classes
        protonorm  88.9 ± 6.1   77.8 ± 4.8  59.7 ± 2.8  40.9 ± 3.1  98.3 ± 1.0  74.4 ± 5.4
        local      80.0 ± 11.7  60.3 ± 7.5  38.6 ± 0.5  16.7 ± 3.2  89.8 ± 4.6  29.2 ± 7.7
        fedproto   75.6 ± 12.8  48.3 ± 6.1  25.6 ± 1.0  23.4 ± 3.8  73.0 ± 6.0  32.8 ± 2.3
        yardstick  74.3         48.9        29.5        10.6        42.6        10.7

    ProtoNorm is ahead on every partition, by the more the less a yardstick leaves to guessing.

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
