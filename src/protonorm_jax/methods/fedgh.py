"""FedGH: one head for all, which the server trains on the clients' class means."""

from typing import Any

import jax
import optax

from protonorm_jax import settings
from protonorm_jax.methods.method import Method, Received, Round, Setup, cross_entropy
from protonorm_jax.methods.shared import averages, heads, prototypes, server_training
from protonorm_jax.types import linear_classify


@settings.group
class Settings:
    """Of FedGH."""

    server_learning_rate: float = settings.setting(
        0.01,
        "of the server, for the head",
        traced=True,
        above=0,
        tune=settings.between(0.001, 1, log=True),
    )
    server_epochs: int = settings.setting(
        1,
        "epochs that the server trains the head each round (the reference code's default is 100, "
        "its tuned value 1)",
        least=1,
    )


def fedgh(setup: Setup, fixed: Settings) -> Method:
    """A generalized global head.

    Every client goes on from the server's head and trains all of its model by cross-entropy. It
    uploads the mean features of its classes by the trained model; on minibatches of these, each
    with its class as the label, the server trains the head further: cross-entropy, SGD that starts
    anew in every round. The first head is client 0's, and all clients are sent the head in every
    round, whether they train or not. It must be linear; dropout before it is not applied on the
    server.

    Source: FedGH (arXiv:2303.13137) as HtFLlib has it.
    """

    def loss(head: Any, vectors: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        logits = linear_classify({"params": {"head": head}}, vectors)
        return cross_entropy(logits, labels, mask)

    def aggregate(
        key: jax.Array, server: Any, received: Received, round: Round
    ) -> tuple[Any, dict[str, jax.Array]]:
        head, last = server_training.train(
            key,
            server,
            server_training.pairs_of(received.each),
            loss,
            optax.sgd(round.settings.server_learning_rate),
            round,
            epochs=fixed.server_epochs,
            batch_size=setup.batch_size,
        )
        return head, {"server_loss": last}

    return Method(
        init_server=heads.init_server,
        broadcast=averages.broadcast,
        receive=heads.receive,
        observe=prototypes.observe_features(setup.num_classes),
        upload=prototypes.upload,
        aggregate=aggregate,
        nets=lambda server: {"head": server},
        sent_to="all",
        server_steps=server_training.most_steps(setup, fixed.server_epochs),
        heads="linear",
    )
