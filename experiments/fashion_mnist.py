"""Fashion-MNIST: all methods, tuned, on 12,000 samples, with small nets.

20 clients, Dirichlet(0.1). Every method has six settings tried, which validation samples judge, by
seeds that the final runs do not have. FedAvg needs one architecture and has a table of its own,
with Local and ProtoNorm; `pooled` is local training on the samples of all clients.

    Command: python -m experiments fashion_mnist --size small
        --data idx:/usr/share/datasets/fashion-mnist
    Time: not measured yet
    Result: not run yet

The data are those of Debian's package `dataset-fashion-mnist`. With 12,000 of 70,000 samples, 60
rounds and small nets nothing here is comparable with published numbers.
"""

from experiments import Sweep, Tuning

NUM_SAMPLES = 12_000
ROUNDS = 60
SEEDS = 8
TUNING = Tuning(settings=6, seeds=2, rounds=20)
METHODS = [
    *("local", "lg_fedavg", "fd", "fml", "fedkd", "fedgen", "fedgh", "fedmrl", "fedl2g"),
    *("fedproto", "fedtgp", "protonorm"),
]

SIZES = {
    "small": Sweep(
        base={
            "num_samples": NUM_SAMPLES,
            "family": "tiny",
            "rounds": ROUNDS,
            "eval_every": 5,
            "validation_fraction": 0.15,
        },
        grids=[
            {"method": METHODS},
            {"method": ["local"], "num_clients": [4], "pooled_clients": [20], "rounds": [10]},
            {"method": ["local", "fedavg", "protonorm"], "family": ["cnn"]},
        ],
        seeds=SEEDS,
        tuning=TUNING,
    ),
}
