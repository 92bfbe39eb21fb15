"""Alignment x upscaling: the two parts of ProtoNorm, each without the other, both, and neither.

Neither of them is FedProto: the server sends the plain averages. Arms of one seed share samples,
partition, first models and the order of batches, so that their differences are paired. Nothing is
tuned: the arms have the same learning rate and the same weight of the distance.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments ablation
    Time: not measured yet
    Result: not run yet

Small, 12,000 samples of real data, family `tiny`:

    Command: python -m experiments ablation --size small --data idx:DIR
    Time: not measured yet
    Result: not run yet

Full, CIFAR-10 and CIFAR-100, family `ht0`, as in the paper:

    Command: python -m experiments ablation --size full
    Time: not measured yet
    Result: not run. The paper's own table was not at hand.
"""

from experiments import Grid, Sweep

ARMS: Grid = {"align": ["auto", "none"], "upscale": [True, False]}

SIZES = {
    "quick": Sweep(
        base={
            "data": "digits",
            "family": "mlp,cnn",
            "rounds": 40,
            "eval_every": 5,
            "keep_features": 400,
            "validation_fraction": 0.15,
        },
        grids=[ARMS, {"method": ["local"]}],
        seeds=4,
    ),
    "small": Sweep(
        base={
            "num_samples": 12_000,
            "family": "tiny",
            "rounds": 50,
            "eval_every": 5,
            "keep_features": 400,
            "validation_fraction": 0.15,
        },
        grids=[ARMS, {"method": ["local"]}],
        seeds=6,
    ),
    "full": Sweep(
        base={
            "family": "ht0",
            "rounds": 300,
            "eval_every": 10,
            "validation_fraction": 0.15,
        },
        grids=[
            {"data": ["tfds:cifar10", "tfds:cifar100"], **ARMS},
            {"data": ["tfds:cifar10", "tfds:cifar100"], "method": ["local"]},
        ],
        seeds=5,
    ),
}
