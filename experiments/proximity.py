"""The proximity lambda: the weight of the distance between features and prototypes.

It weights a mean over batch and feature elements, so that lambda = 10 with 512 features is 10/512
on the squared distance; 10 is the value tuned in the published codes. All values of a method share
one program.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments proximity
    Time: not measured yet
    Result: not run yet

Full, CIFAR-10, family `ht0`:

    Command: python -m experiments proximity --size full
    Time: not measured yet
    Result: not run. In the published codes lambda = 10 for all three.
"""

from experiments import Sweep

PROXIMITIES = [1.0, 3.0, 10.0, 30.0, 100.0]

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
            {"method": ["protonorm", "fedproto"], "proximity": PROXIMITIES},
            {"method": ["local"]},
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
            {"method": ["protonorm", "fedproto", "fedtgp"], "proximity": PROXIMITIES},
            {"method": ["local"]},
        ],
        seeds=5,
    ),
}
