"""FedMRL: features of a shared model and of a private one, merged, for both of their heads."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax import settings
from protonorm_jax.errors import UsageError
from protonorm_jax.methods.method import (
    LossInfo,
    Method,
    Received,
    Round,
    Setup,
    Shared,
    cross_entropy,
    variables_of,
)
from protonorm_jax.methods.shared import averages, linear, mentee
from protonorm_jax.types import Batch, Client, Models, Outputs, Variables


@settings.group
class Settings:
    """Of FedMRL."""

    mentee_dim: int = settings.setting(
        0,
        "length of the shared model's features, at most that of the private models'; 0 for a "
        "quarter of it",
        least=0,
        probe=(48, 96),
    )
    projection: str = settings.setting(
        "kept",
        "whether a client keeps the projection that it has trained, or has the first one again in "
        "every round and evaluation (reset)",
        choices=("kept", "reset"),
        reference="reset",
    )


class Server(NamedTuple):
    """The server's state.

    Attributes:
      mentee: the shared model.
      projection: `{"kernel": [d + D, D], "bias": [D]}`, what every client's starts from.
    """

    mentee: Variables
    projection: dict[str, jax.Array]


def merge(client: Client, features: jax.Array, shared: jax.Array) -> jax.Array:
    """The client's projection of the mentee's features `[B, d]` and the private ones `[B, D]`.

    Returns:
      `[B, D]`.
    """
    projection = client.params[mentee.PROJECTION]
    joined = jnp.concatenate([shared, features], axis=1)
    return joined @ projection["kernel"] + projection["bias"].reshape(1, -1)


def fedmrl(setup: Setup, fixed: Settings) -> Method:
    """Matryoshka representations: the first numbers of a feature are one for the shared head.

    A client joins the features of both models and projects them, `r = [e; f] W + b` with e `[d]`
    the mentee's and f `[D]` the private model's; r `[D]` is for the private head h, its first d
    numbers are for the mentee's head g: `CE(h(r), y) + CE(g(r[:d]), y)`. Only the mentee travels,
    and the server takes the plain mean. The projection stays with the client and starts the same
    for all.

    Source: FedMRL (arXiv:2406.00488) as HtFLlib has it. Differs: the public code trains the
    projection but forgets it after every round (`projection="reset"`), and does not average running
    statistics.

    Raises:
      UsageError: `mentee_dim` is larger than `feature_dim`.
    """
    dim = setup.feature_dim
    mentee_dim = fixed.mentee_dim or max(1, dim // 4)
    if mentee_dim > dim:
        raise UsageError(f"fedmrl.mentee_dim must be <= feature_dim ({dim}), got {mentee_dim}")

    def init_server(key: jax.Array, models: Models, first: Variables) -> Server:
        mentee_key, projection_key = jax.random.split(key)
        variables = mentee.init_server(mentee_key, models, first)
        return Server(variables, linear.draw(projection_key, mentee_dim + dim, dim))

    def init_client(
        key: jax.Array, variables: Variables, server: Server, models: Models, counts: jax.Array
    ) -> Client:
        client = mentee.init_client(key, variables, server.mentee, models, counts)
        first = server.projection if fixed.projection == "reset" else {}
        return Client(
            {**client.params, mentee.PROJECTION: server.projection},
            {**client.statistics, mentee.PROJECTION: first},
        )

    def receive(client: Client, down: Variables, models: Models) -> Client:
        client = mentee.receive(client, down, models)
        if fixed.projection == "kept":
            return client
        first = client.statistics[mentee.PROJECTION]
        return client._replace(params={**client.params, mentee.PROJECTION: first})

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
        assert models.shared is not None, "the method asks for a shared model"
        key, private_key, shared_key = jax.random.split(key, 3)
        private, shared, statistics = mentee.forward_both(models, params, statistics, batch, key)
        client = Client(params, statistics)
        merged = merge(client, private.features, shared.features)
        logits = models.private.classify(variables_of(client), merged, train=True, key=private_key)
        shared_logits = models.shared.classify(
            variables_of(client, mentee.SHARED), merged[:, :mentee_dim], train=True, key=shared_key
        )
        terms = {
            "cross_entropy": cross_entropy(logits, batch.labels, batch.mask),
            "mentee_cross_entropy": cross_entropy(shared_logits, batch.labels, batch.mask),
        }
        total = terms["cross_entropy"] + terms["mentee_cross_entropy"]
        return total, LossInfo(Outputs(merged, logits), statistics, terms)

    def aggregate(
        key: jax.Array, server: Server, received: Received, round: Round
    ) -> tuple[Server, dict[str, jax.Array]]:
        del key, round
        return server._replace(mentee=received.mean), {}

    def predict(
        client: Client, down: Variables, inputs: Any, *, models: Models
    ) -> dict[str, jax.Array]:
        del down
        assert models.shared is not None, "the method asks for a shared model"
        private, _ = models.private.apply(variables_of(client), inputs)
        shared, _ = models.shared.apply(variables_of(client, mentee.SHARED), inputs)
        merged = merge(client, private.features, shared.features)
        return {"head": models.private.classify(variables_of(client), merged)}

    return Method(
        init_server=init_server,
        init_client=init_client,
        broadcast=lambda server, round: averages.broadcast(server.mentee, round),
        receive=receive,
        loss=loss,
        upload=averages.upload_of(lambda client: variables_of(client, mentee.SHARED)),
        aggregate=aggregate,
        predict=predict,
        nets=lambda server: {"mentee": server.mentee},
        collect=None,
        weighting="uniform",
        shared=Shared(feature_dim=mentee_dim),
    )
