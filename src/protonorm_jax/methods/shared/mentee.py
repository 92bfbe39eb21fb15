"""What the methods share that train a small common model, the mentee, beside the private one."""

from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax.methods.method import forward, mean_of_rows, variables_of
from protonorm_jax.types import Batch, Client, Models, Outputs, Variables

SHARED = "shared"
"""The key of the mentee in a client's parameters and statistics."""

PROJECTION = "projection"
"""The same of the layer that takes features from one space to another, of methods that have it."""


def init_server(key: jax.Array, models: Models, first: Variables) -> Variables:
    """Draws the mentee."""
    del first
    assert models.shared is not None, "the method asks for a shared model"
    return models.shared.init(key)


def init_client(
    key: jax.Array, variables: Variables, server: Variables, models: Models, counts: jax.Array
) -> Client:
    """A client that keeps its model, and has the server's mentee beside it."""
    del key, models, counts
    return Client(
        {"model": variables["params"], SHARED: server["params"]},
        {"model": variables["batch_stats"], SHARED: server["batch_stats"]},
    )


def receive(client: Client, down: Variables, models: Models) -> Client:
    """Puts the server's mentee in the place of the client's."""
    del models
    return Client(
        {**client.params, SHARED: down["params"]},
        {**client.statistics, SHARED: down["batch_stats"]},
    )


def forward_both(
    models: Models, params: dict[str, Any], statistics: dict[str, Any], batch: Batch, key: jax.Array
) -> tuple[Outputs, Outputs, dict[str, Any]]:
    """Training-mode outputs of the private model and of the mentee, and the new statistics."""
    assert models.shared is not None, "the method asks for a shared model"
    private_key, shared_key = jax.random.split(key)
    private, statistics = forward(models, params, statistics, batch, private_key)
    variables = variables_of(Client(params, statistics), SHARED)
    shared, variables = models.shared.apply(
        variables, batch.inputs, train=True, mask=batch.mask, key=shared_key
    )
    return private, shared, {**statistics, SHARED: variables["batch_stats"]}


def predict(client: Client, down: Any, inputs: Any, *, models: Models) -> dict[str, jax.Array]:
    """Class scores of the private model and of the mentee."""
    del down
    assert models.shared is not None, "the method asks for a shared model"
    private, _ = models.private.apply(variables_of(client), inputs)
    shared, _ = models.shared.apply(variables_of(client, SHARED), inputs)
    return {"head": private.logits, "mentee": shared.logits}


def divergence(logits: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over real rows **and** classes of KL(softmax(target) || softmax(logits)).

    Args:
      logits: `[B, C]`.
      target: `[B, C]`.
      mask: `[B]` bool.

    The mean over classes, by which the reference codes divide the divergence once more, is theirs.
    """
    wanted = jax.nn.log_softmax(target)
    terms = jnp.exp(wanted) * (wanted - jax.nn.log_softmax(logits))
    return mean_of_rows(jnp.mean(terms, axis=1), mask)
