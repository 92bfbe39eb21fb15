"""FedProto: clients pull their features towards the average class prototypes."""

import jax

from protonorm_jax.methods.method import Arrivals, Hyperparameters, Method
from protonorm_jax.methods.shared import class_table, prototypes
from protonorm_jax.types import Prototypes


def fedproto(*, num_classes: int, feature_dim: int, weighting: str = "uniform") -> Method:
    """Prototype averaging without alignment and without upscaling.

    Args:
      num_classes: C.
      feature_dim: D.
      weighting: of the clients in the average, see `class_table.average`.

    A class that nobody uploaded this round keeps its last prototypes.

    Source: FedProto (arXiv:2105.00243). `proximity` weights a mean over elements, as in the
    public codes; its default 10 is the value tuned there.
    """

    def aggregate(
        key: jax.Array,
        server: Prototypes,
        uploads: class_table.ClassSums,
        arrivals: Arrivals,
        hyperparameters: Hyperparameters,
    ) -> tuple[Prototypes, dict[str, jax.Array]]:
        del key, arrivals, hyperparameters
        means = class_table.average(uploads, server, weighting=weighting)
        return means, prototypes.separation(means, means)

    return Method(
        hyperparameters={"proximity": 10.0},
        init_server=lambda key: prototypes.unknown(num_classes, feature_dim),
        broadcast=prototypes.broadcast,
        loss=prototypes.loss,
        observe=prototypes.observe_features(num_classes),
        upload=prototypes.upload,
        aggregate=aggregate,
        predict=prototypes.predict,
    )
