"""Fashion-MNIST: all methods, tuned, on 12,000 samples, with small nets.

20 clients, Dirichlet(0.1). Every method has six settings tried, which validation samples judge, by
seeds that the final runs do not have. FedAvg needs one architecture and has a table of its own,
with Local and ProtoNorm; `pooled` is local training on the samples of all clients.

    Command: python -m experiments fashion_mnist --size small
        --data idx:/usr/share/datasets/fashion-mnist
    Time: not measured at that size. With fewer samples, by `--num-samples 3000 --batch-size 10
        --rounds 25 --tune-seeds 1 --tune-rounds 10`: 29 minutes on two cores that were busy with
        other work
    Result: of that, test accuracy, %, of the selected round, mean of 8 seeds and half its 95 % t
    interval; most frequent class 65.2 (`results/fashion_mnist`):

        Local   92.3 ± 1.9      FedKD      91.4 ± 1.9      FedProto  83.8 ± 4.9
        FML     92.1 ± 1.8      LG-FedAvg  89.5 ± 1.9      FedGen    80.4 ± 9.1
        FedL2G  92.0 ± 1.6      ProtoNorm  88.3 ± 2.2      FedTGP    80.0 ± 4.6
        FedMRL  91.9 ± 1.8      FedGH      88.1 ± 5.9
        FD      91.6 ± 2.1
        cnn alone: ProtoNorm 91.2 ± 2.8, Local 89.4 ± 8.6, FedAvg 74.5 ± 2.1

    No method is above Local. ProtoNorm is below Local, FML, FedL2G, FedMRL, FD and FedKD by 3.1 to
    4.0 points (Holm's p 0.003 to 0.02), above FedTGP by 8.3 [3.8, 12.8] (p 0.02), and above FedAvg
    by 16.7 [12.6, 20.8] where all have one architecture. Three seeds of FedGen, one of FedGH and
    one of Local with cnn diverge, and count with the most frequent class. Six points tried for ten
    rounds have chosen less well for ProtoNorm (s = 10.8) than its defaults would (s = 80, see
    `ablation`: 92.9 ± 3.4 with four seeds). One net with the samples of all clients gets 78.5.

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
