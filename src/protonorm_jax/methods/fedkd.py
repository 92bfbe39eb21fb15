"""FedKD: a private model and a shared one teach each other; the shared one travels compressed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from protonorm_jax import settings
from protonorm_jax.methods.method import (
    LossInfo,
    Method,
    Received,
    Round,
    Setup,
    Shared,
    Upload,
    cross_entropy,
    mean_of_rows,
    variables_of,
)
from protonorm_jax.methods.shared import averages, clipping, linear, low_rank, mentee
from protonorm_jax.types import Batch, Client, ClientData, Models, Variables

CLIP = 10.0  # The largest norm of the gradient of each net.


@settings.group
class Settings:
    """Of FedKD."""

    mentee_learning_rate: float = settings.setting(
        0.01,
        "of the shared model, on the clients",
        traced=True,
        above=0,
        tune=settings.between(0.001, 0.3, log=True),
    )
    energy_start: float = settings.setting(
        0.95,
        "share of a weight matrix's energy (squared singular values) that is sent in the first "
        "round",
        traced=True,
        above=0,
        most=1,
        probe=(0.76, 0.5),
    )
    energy_end: float = settings.setting(
        0.98,
        "the same after the last round; in between it grows evenly",
        traced=True,
        above=0,
        most=1,
        probe=(0.84, 0.3),
    )
    low_rank: str = settings.setting(
        "smaller",
        "which weight matrices are sent at a lower rank: those that it makes smaller, or all",
        choices=("smaller", "all"),
        reference="all",
    )


class Server(NamedTuple):
    """The server's state.

    Attributes:
      mentee: the shared model as it is sent.
      floats: `[]` int32, how many numbers that takes.
      projection: `{"kernel": [D, D]}`, what every client's projection starts from.
    """

    mentee: Variables
    floats: jax.Array
    projection: dict[str, jax.Array]


def fedkd(setup: Setup, fixed: Settings) -> Method:
    """Mutual distillation of outputs and features, by as much as the models are to be trusted.

    With o, f logits and features of the private model and g, e those of the mentee, W a square
    matrix of the client, KL and MSE means over batch and elements, and
    `s = CE(o, y) + CE(g, y)`, both models and W follow the sum of
    `CE(o, y) + (KL(softmax g || softmax o) + MSE(f, e W)) / s` and
    `CE(g, y) + (KL(softmax o || softmax g) + MSE(f, e W)) / s`, each clipped by itself. The mentee
    travels, each of its weight matrices at the least rank that holds more than a share of the
    energy, or whole where that takes no more numbers. The server takes the plain mean of what
    arrives, reduces its ranks as well and sends it to all clients. The share goes from
    `energy_start` in the first round towards `energy_end`. The first mentee is sent whole.

    Source: FedKD (arXiv:2108.13323) as HtFLlib has it, whose two losses are differentiated by both
    models, and s as well; the paper compresses gradients. Differs: the public code sends zeros in
    the place of a matrix that needs full rank, takes a convolution for many small matrices, and
    reduces ranks also where that takes more numbers (`low_rank="all"`); running statistics are not
    averaged there and are here; s is not kept from zero there.
    """
    dim = setup.feature_dim

    def energy_of(round: Round) -> jax.Array:
        start, end = round.settings.energy_start, round.settings.energy_end
        return start + round.index / setup.rounds * (end - start)

    def init_server(key: jax.Array, models: Models, first: Variables) -> Server:
        mentee_key, projection_key = jax.random.split(key)
        variables = mentee.init_server(mentee_key, models, first)
        projection = {"kernel": linear.draw(projection_key, dim, dim)["kernel"]}
        return Server(variables, jnp.int32(averages.num_floats(variables)), projection)

    def init_client(
        key: jax.Array, variables: Variables, server: Server, models: Models, counts: jax.Array
    ) -> Client:
        client = mentee.init_client(key, variables, server.mentee, models, counts)
        return Client(
            {**client.params, mentee.PROJECTION: server.projection},
            {**client.statistics, mentee.PROJECTION: {}},
        )

    def loss(
        params: dict[str, Any],
        statistics: dict[str, Any],
        down: Variables,
        batch: Batch,
        key: jax.Array,
        round: Round,
        *,
        models: Models,
    ) -> tuple[jax.Array, LossInfo]:
        del down, round
        outputs, shared, statistics = mentee.forward_both(models, params, statistics, batch, key)
        entropy = cross_entropy(outputs.logits, batch.labels, batch.mask)
        shared_entropy = cross_entropy(shared.logits, batch.labels, batch.mask)
        projected = shared.features @ params[mentee.PROJECTION]["kernel"]
        squares = jnp.mean(jnp.square(outputs.features - projected), axis=1)
        distance = mean_of_rows(squares, batch.mask)
        to_shared = mentee.divergence(outputs.logits, shared.logits, batch.mask)
        to_private = mentee.divergence(shared.logits, outputs.logits, batch.mask)
        doubt = jnp.maximum(entropy + shared_entropy, 1e-8)  # Float32 has nothing below but zero.
        terms = {
            "cross_entropy": entropy,
            "mentee_cross_entropy": shared_entropy,
            "feature_mse": distance,
            "private_loss": entropy + (to_shared + distance) / doubt,
            "mentee_loss": shared_entropy + (to_private + distance) / doubt,
        }
        total = terms["private_loss"] + terms["mentee_loss"]
        return total, LossInfo(outputs, statistics, terms)

    def optimizer(round: Round) -> optax.GradientTransformation:
        private = round.descent.along(round.learning_rate)
        shared = round.descent.along(round.settings.mentee_learning_rate * round.schedule)
        nets = {"model": "private", mentee.PROJECTION: "private", mentee.SHARED: "shared"}
        by_net = optax.partition({"private": private, "shared": shared}, nets)
        return optax.chain(clipping.clip_each_net(CLIP), by_net)

    def compress(variables: Variables, round: Round) -> tuple[Variables, jax.Array]:
        return low_rank.compress(variables, energy_of(round), which=fixed.low_rank)

    def upload(
        key: jax.Array,
        client: Client,
        totals: Any,
        data: ClientData,
        down: Variables,
        round: Round,
        *,
        models: Models,
    ) -> Upload:
        del key, totals, data, down, models
        sent, floats = compress(variables_of(client, mentee.SHARED), round)
        return Upload(mean=sent, floats=floats)

    def aggregate(
        key: jax.Array, server: Server, received: Received, round: Round
    ) -> tuple[Server, dict[str, jax.Array]]:
        del key
        sent, floats = compress(received.mean, round)
        return server._replace(mentee=sent, floats=floats), {"energy": energy_of(round)}

    return Method(
        init_server=init_server,
        init_client=init_client,
        broadcast=lambda server, round: (server.mentee, server.floats),
        receive=mentee.receive,
        loss=loss,
        optimizer=optimizer,
        upload=upload,
        aggregate=aggregate,
        predict=mentee.predict,
        nets=lambda server: {"mentee": server.mentee},
        collect=None,
        weighting="uniform",
        sent_to="all",
        shared=Shared(),
    )
