"""MNIST as HtFLlib deals it: six methods, tuned, on 12,000 samples, with two small nets.

The clients and what each trains and is tested on come from the files of HtFLlib's generator, the
same for all seeds: intervals cover the randomness of training alone. Every method has six settings
tried, which validation samples judge, by a seed that the final runs do not have; `pooled` is local
training on the samples of all clients.

    Command: python -m experiments mnist_pfllib --size small --data pfllib:HtFLlib/dataset/MNIST
    Time: not measured yet
    Result: not run yet

With 12,000 of 70,000 samples, 50 rounds and small nets nothing here is comparable with published
numbers.
"""

from experiments import Sweep, Tuning

NUM_SAMPLES = 12_000
ROUNDS = 50
SEEDS = 6
TUNING = Tuning(settings=6, seeds=1, rounds=20)
METHODS = ["local", "lg_fedavg", "fml", "fedproto", "fedtgp", "protonorm"]

SIZES = {
    "small": Sweep(
        base={
            "num_samples": NUM_SAMPLES,
            "family": "mlp,cnn",
            "rounds": ROUNDS,
            "eval_every": 5,
            "validation_fraction": 0.15,
        },
        grids=[
            {"method": METHODS},
            {"method": ["local"], "num_clients": [2], "pooled_clients": [20], "rounds": [10]},
        ],
        seeds=SEEDS,
        tuning=TUNING,
    ),
}
