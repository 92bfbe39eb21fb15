"""The number of clients, and the share of them that takes part in a round.

With more clients each holds fewer samples, so that numbers of different columns are not
comparable; the question is how far methods stay ahead of local training. Every number of clients
is a program of its own, all participations share it.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments clients
    Time: 1 minute on two idle cores
    Result: test accuracy, %, of the selected round, mean of 4 seeds and half its 95 % t interval:

        clients  taking part  ProtoNorm    FedProto     Local       most frequent class
             10          30%  48.1 ± 10.9  26.3 ± 4.0   45.9 ± 2.6  37.0
             10         100%  81.9 ± 7.1   55.5 ± 10.9  64.9 ± 6.8  37.0
             20          30%  37.8 ± 11.3  19.0 ± 2.1   41.8 ± 8.9  40.2
             20         100%  69.4 ± 4.5   33.3 ± 13.5  49.6 ± 6.8  40.2
             40          30%  38.5 ± 5.3   17.3 ± 1.1   40.3 ± 5.8  40.0
             40         100%  55.0 ± 3.5   28.9 ± 11.0  43.0 ± 8.2  40.0

    ProtoNorm is ahead of local training where all take part. Where a third of them does, clients
    have trained too little after 30 rounds for any of this to count.

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
