"""All methods on several data sets and partitions, each tuned with the same effort.

A cell is one method on one data set and partition. Its learning rate and the settings of its own
are chosen by validation samples, with seeds that the final runs do not have. Beside the families
of several architectures there is a table of one architecture, which FedAvg needs, and the row
`pooled`: local training with the samples of all clients in the hands of each, which no method is
expected to beat.

Quick, digits, Dirichlet(0.1) and two classes a client, family `tiny`:

    Command: python -m experiments main_comparison
    Time: 10.5 minutes on two idle cores
    Result: with two seeds nothing is told apart from anything: half intervals are 9 to 95 points.
    It shows that all methods run, are tuned and come out on one page. `fashion_mnist` has eight
    seeds.

Full, CIFAR-10 and CIFAR-100 (Tiny-ImageNet by `--data folder:PATH --image-size 32`), HtFE8, 20
clients, batches of 10, the learning rate and the settings of the method tuned:

    Command: python -m experiments main_comparison --size full
    Time: not measured yet
    Result: not run. Published, in %, for CIFAR-10, CIFAR-100 and Tiny-ImageNet:

        FedProto   82.07  36.34  19.01      FML     85.88  39.86  24.25
        FedTGP     88.15  46.94  27.37      FedKD   86.45  40.56  25.51
        LG-FedAvg  84.55  40.65  24.06      FedGen  82.55  38.73  19.60
        FD         86.01  41.54  24.87      FedGH   84.43  40.99  24.01

    These are from the slides of FedTGP and FedKTL: HtFE8, 20 clients, Dirichlet(0.1), one setting
    for all data sets, and the best round by TEST accuracy. Here validation samples choose the
    round, so that numbers are expected to be lower. With fewer samples, other nets or images that
    were compressed again they are not comparable at all.
"""

from experiments import Sweep, Tuning

METHODS = [
    *("local", "lg_fedavg", "fd", "fml", "fedkd", "fedgen", "fedgh", "fedmrl", "fedl2g"),
    *("fedproto", "fedtgp", "protonorm"),
]
OF_ONE_ARCHITECTURE = ["local", "fedavg", "protonorm"]
PARTITIONS = ["dirichlet", "pathological"]
DATA = ["tfds:cifar10", "tfds:cifar100"]
ALPHAS = [0.1, 0.5]

SIZES = {
    "quick": Sweep(
        base={
            "data": "digits",
            "family": "tiny",
            "rounds": 20,
            "eval_every": 5,
            "validation_fraction": 0.15,
        },
        grids=[
            {"partition": PARTITIONS, "method": METHODS},
            {
                "partition": PARTITIONS,
                "method": ["local"],
                "num_clients": [4],  # One of each architecture.
                "pooled_clients": [20],
            },
            {"partition": PARTITIONS, "method": OF_ONE_ARCHITECTURE, "family": ["cnn"]},
        ],
        seeds=2,
        tuning=Tuning(settings=4, seeds=1, rounds=10),
    ),
    "full": Sweep(
        base={
            "family": "htfe8",
            "batch_size": 10,
            "rounds": 1000,
            "eval_every": 20,
            "validation_fraction": 0.15,
        },
        grids=[
            {"data": DATA, "alpha": ALPHAS, "method": METHODS},
            {
                "data": DATA,
                "alpha": ALPHAS,
                "method": ["local"],
                "num_clients": [8],
                "pooled_clients": [20],
            },
            {
                "data": DATA,
                "alpha": ALPHAS,
                "method": OF_ONE_ARCHITECTURE,
                "family": ["fedavg_cnn"],
            },
        ],
        seeds=5,
        tuning=Tuning(settings=8, seeds=2, rounds=200),
    ),
}
