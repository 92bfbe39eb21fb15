"""FedProto: clients pull their features towards the average class prototypes."""

import jax

from protonorm_jax import settings
from protonorm_jax.methods.method import Method, Received, Round, Setup
from protonorm_jax.methods.shared import class_table, prototypes
from protonorm_jax.types import Prototypes


@settings.group
class Settings:
    """Of FedProto."""

    proximity: float = prototypes.proximity()
    distance: str = prototypes.distance()
    weighting: str = prototypes.weighting()
    collect: str = prototypes.collect(reference="during")


def fedproto(setup: Setup, fixed: Settings) -> Method:
    """Prototype averaging without alignment and without upscaling.

    A class that nobody uploaded this round keeps its last prototype; the reference codes forget it
    or fail.

    Source: FedProto (arXiv:2105.00243). `proximity` weights a mean over elements, as in the
    public codes; its default 10 is the value tuned there. They average the features of every
    training step (`collect="during"`).
    """

    def aggregate(
        key: jax.Array, server: Prototypes, received: Received, round: Round
    ) -> tuple[Prototypes, dict[str, jax.Array]]:
        del key, round
        means = class_table.average(received.each, server, weighting=fixed.weighting)
        return means, prototypes.separation(means, means)

    return Method(
        init_server=lambda *_: prototypes.unknown(setup.num_classes, setup.feature_dim),
        broadcast=prototypes.broadcast,
        loss=prototypes.loss_of(fixed.distance),
        observe=prototypes.observe_features(setup.num_classes),
        upload=prototypes.upload,
        aggregate=aggregate,
        predict=prototypes.predict,
        predictor="prototype",
        show=prototypes.show,
        collect=fixed.collect,
        rows="arrived",
    )
