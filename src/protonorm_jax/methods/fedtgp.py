"""FedTGP: prototypes that the server trains to keep an adaptive margin between classes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from protonorm_jax import settings
from protonorm_jax.methods.method import Method, Received, Round, Setup, cross_entropy
from protonorm_jax.methods.shared import class_table, linear, prototypes, server_training
from protonorm_jax.types import Models, Prototypes, Variables


@settings.group
class Settings:
    """Of FedTGP."""

    proximity: float = prototypes.proximity()
    distance: str = prototypes.distance()
    margin: float = settings.setting(
        100.0,
        "tau: the largest margin; the margin is the largest gap between class means where that is "
        "less",
        traced=True,
        above=0,
        probe=(0.05, 0.5),
        tune=settings.between(0.1, 200, log=True),
    )
    server_epochs: int = settings.setting(
        100, "epochs that the server trains its net each round", least=1, probe=(2, 5)
    )
    collect: str = prototypes.collect(("after", "before"), reference="before")


class Server(NamedTuple):
    """The server's state.

    Attributes:
      net: `{"embedding": [C, D], "fc1": {"kernel": [D, D], "bias": [D]}, "fc2": the same}`.
      prototypes: what the net made of its embedding, unknown before anything was uploaded.
    """

    net: Any
    prototypes: Prototypes


def generate(net: Any) -> jax.Array:
    """The prototypes `[C, D]` of all classes: embedding, linear, ReLU, linear."""
    hidden = net["embedding"] @ net["fc1"]["kernel"] + net["fc1"]["bias"].reshape(1, -1)
    return jax.nn.relu(hidden) @ net["fc2"]["kernel"] + net["fc2"]["bias"].reshape(1, -1)


def distances(vectors: jax.Array, others: jax.Array) -> jax.Array:
    """Euclidean distances `[B, C]` between rows of `[B, D]` and `[C, D]`, at least 1e-6."""
    # From one product of matrices; around the mean of the others, which costs fewer digits.
    centre = jnp.mean(others, axis=0, keepdims=True)
    vectors, others = vectors - centre, others - centre
    squares = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
    squares = squares + jnp.sum(jnp.square(others), axis=1).reshape(1, -1)
    products = jnp.dot(vectors, others.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.maximum(squares - 2 * products, 1e-12))


def largest_gap(means: Prototypes) -> jax.Array:
    """The largest of the known classes' distances to their nearest; infinite for a single class."""
    num_classes = means.vectors.shape[0]
    apart = means.known[:, None] & means.known[None] & ~jnp.eye(num_classes, dtype=bool)
    gaps = jnp.min(jnp.where(apart, distances(means.vectors, means.vectors), jnp.inf), axis=1)
    return jnp.max(jnp.where(means.known, gaps, -jnp.inf))


def fedtgp(setup: Setup, fixed: Settings) -> Method:
    """Trainable global prototypes, by contrastive learning with an adaptive margin on the server.

    On minibatches of the uploaded class means `p` with label `y`, the server trains a net that
    gives prototypes `g` of all C classes: cross-entropy of `-d` at `y`, where `d_c = |p - g_c|`
    and `d_y` is enlarged by `min(largest gap between class means, margin)`. SGD with the clients'
    learning rate; the net is kept between rounds, the optimiser is not.

    Source: FedTGP (arXiv:2401.03230). Differs from the public code: it uploads the prototypes of
    the model before the round's training (`collect="before"`); its square root is not kept from
    zero, where it gives NaN.
    """
    num_classes, dim = setup.num_classes, setup.feature_dim

    def init_server(key: jax.Array, models: Models, first: Variables) -> Server:
        del models, first
        embedding_key, first_key, second_key = jax.random.split(key, 3)
        net = {
            "embedding": jax.random.normal(embedding_key, (num_classes, dim)),
            "fc1": linear.draw(first_key, dim, dim),
            "fc2": linear.draw(second_key, dim, dim),
        }
        return Server(net, prototypes.unknown(num_classes, dim))

    def aggregate(
        key: jax.Array, server: Server, received: Received, round: Round
    ) -> tuple[Server, dict[str, jax.Array]]:
        means = class_table.average(received.each, prototypes.unknown(num_classes, dim))
        margin = jnp.minimum(largest_gap(means), round.settings.margin)

        def loss(net: Any, vectors: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
            away = distances(vectors, generate(net))
            away = away + margin * jax.nn.one_hot(labels, num_classes)
            return cross_entropy(-away, labels, mask)

        net, last = server_training.train(
            key,
            server.net,
            server_training.pairs_of(received.each),
            loss,
            optax.sgd(round.learning_rate),
            round,
            epochs=fixed.server_epochs,
            batch_size=setup.batch_size,
        )
        trained = Prototypes(generate(net), jnp.ones(num_classes, bool))
        info = prototypes.separation(means, trained)
        info |= {"server_loss": last, "server_margin": margin}
        return Server(net, trained), info

    return Method(
        init_server=init_server,
        broadcast=lambda server, round: prototypes.broadcast(server.prototypes, round),
        loss=prototypes.loss_of(fixed.distance),
        observe=prototypes.observe_features(num_classes),
        upload=prototypes.upload,
        aggregate=aggregate,
        predict=prototypes.predict,
        predictor="prototype",
        show=lambda server: prototypes.show(server.prototypes),
        nets=lambda server: {"prototype_net": server.net},
        collect=fixed.collect,
        server_steps=server_training.most_steps(setup, fixed.server_epochs),
    )
