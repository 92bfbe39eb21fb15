"""Communication: what every method sends, and how much of it until it has caught up with Local.

All methods with their default settings, NONE OF THEM TUNED: this says what runs and what it costs,
and not which method is best. The page gives floats a round, and rounds and floats until the mean
accuracy of local training is reached, where it is reached at all.

Quick, digits, family `mlp,cnn`:

    Command: python -m experiments communication
    Time: 2 minutes on two idle cores
    Result: with two seeds no method is told apart from another. ProtoNorm reaches the mean of Local
    after 23 of 40 rounds and 3.2 million floats in both seeds, FedGen after 34 and 201 million;
    FD and FedTGP in one of two seeds, the others in none.

Full, CIFAR-100, HtFE8, batches of 10:

    Command: python -m experiments communication --size full
    Time: not measured yet
    Result: not run. Published millions of floats a round of 20 clients, up or down (table 5 of
    FedKTL, 100 classes, 512 features): LG-FedAvg 1.03, FedGen 7.66 down, FML 18.50, FD 0.20 down,
    prototypes 1.02 down. `protonorm run --dry-run` counts the same.

An earlier form of this file, without validation samples and with the family `tiny`: 20 clients,
Dirichlet(0.1), 50 rounds of digits, five seeds, the last round; mean and standard error. The most
frequent class of each client is 0.749 ± 0.036. Seconds are of a round of the two runs that train
side by side on two cores, floats of all clients in a round.

    method     models  prototype      head           mentee         floats up  floats down  s
    local      tiny    -              0.902 ± 0.012  -                      0            0  0.0391
    lg_fedavg  tiny    -              0.851 ± 0.016  -                102,600      102,600  0.0648
    fd         tiny    -              0.898 ± 0.017  -                    658        2,000  0.0651
    fml        tiny    -              0.867 ± 0.017  0.288 ± 0.061    269,000      269,000  0.0611
    fedkd      tiny    -              0.902 ± 0.010  0.513 ± 0.038    269,000      269,000  0.125
    fedgen     tiny    -              0.916 ± 0.010  -                102,600    5,816,520  0.146
    fedgh      tiny    -              0.805 ± 0.048  -                 33,690      102,600  0.0558
    fedmrl     tiny    -              0.895 ± 0.018  -                192,200      192,200  0.0966
    fedl2g     tiny    -              0.886 ± 0.013  -                 15,974      102,400  0.0822
    fedproto   tiny    0.696 ± 0.037  0.894 ± 0.015  -                 33,690      102,400  0.058
    fedtgp     tiny    0.871 ± 0.040  0.899 ± 0.029  -                 33,690      102,400  0.228
    protonorm  tiny    0.947 ± 0.008  0.919 ± 0.019  -                 33,690      102,400  0.0567
    local      cnn     -              0.843 ± 0.022  -                      0            0  0.0233
    fedavg     cnn     -              0.249 ± 0.027  -                299,560      299,560  0.0238
"""

from experiments import Sweep

METHODS = [
    *("local", "lg_fedavg", "fd", "fml", "fedkd", "fedgen", "fedgh", "fedmrl", "fedl2g"),
    *("fedproto", "fedtgp", "protonorm"),
]

SIZES = {
    "quick": Sweep(
        base={
            "data": "digits",
            "family": "mlp,cnn",
            "rounds": 40,
            "eval_every": 2,
            "validation_fraction": 0.15,
        },
        grids=[{"method": METHODS}, {"method": ["local", "fedavg"], "family": ["cnn"]}],
        seeds=2,
    ),
    "full": Sweep(
        base={
            "data": "tfds:cifar100",
            "family": "htfe8",
            "batch_size": 10,
            "rounds": 300,
            "eval_every": 5,
            "validation_fraction": 0.15,
        },
        grids=[{"method": METHODS}, {"method": ["local", "fedavg"], "family": ["fedavg_cnn"]}],
        seeds=3,
    ),
}
