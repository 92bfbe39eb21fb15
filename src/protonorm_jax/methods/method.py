"""What a federated method is: a tuple of pure functions, with the usual choice as default.

Everything that crosses between clients and server is independent of the architecture, so that
the uploads of all clients stack to leaves `[num_clients, ...]`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from protonorm_jax.types import Batch, Client, ClientData, Model, Outputs, Variables

Hyperparameters = Mapping[str, jax.Array]
"""Traced scalars by name: `learning_rate` and those the method names in `hyperparameters`."""


class LossInfo(NamedTuple):
    """What the loss reports beside its value.

    Attributes:
      outputs: of the private model, in training mode.
      statistics: the client's new `statistics`.
      terms: named scalars to record, averaged over the steps of a round.
    """

    outputs: Outputs
    statistics: dict[str, Any]
    terms: dict[str, jax.Array]


class Arrivals(NamedTuple):
    """What the server knows of this round's uploads.

    Attributes:
      arrived: `[num_clients]` bool; the rows of uploads that did not arrive are zero.
      num_samples: `[num_clients]` int32, training samples each client used this round.
    """

    arrived: jax.Array
    num_samples: jax.Array


def no_server(key: jax.Array) -> tuple[()]:
    """A server without state."""
    del key
    return ()


def model_only(key: jax.Array, variables: Variables, server: Any) -> Client:
    """A client that keeps its model and nothing else."""
    del key, server
    return Client({"model": variables["params"]}, {"model": variables["batch_stats"]})


def no_broadcast(
    server: Any, round_index: jax.Array, hyperparameters: Hyperparameters
) -> tuple[Any, int]:
    """Sends nothing down."""
    del server, round_index, hyperparameters
    return (), 0


def keep(client: Client, broadcast: Any) -> Client:
    """Takes nothing from the broadcast into the client's state."""
    del broadcast
    return client


def sgd(hyperparameters: Hyperparameters) -> optax.GradientTransformation:
    """Plain SGD, the local optimiser of the reference codes."""
    return optax.sgd(hyperparameters["learning_rate"])


def observe_nothing(outputs: Outputs, labels: jax.Array, mask: jax.Array) -> tuple[()]:
    """Collects nothing from the client's samples."""
    del outputs, labels, mask
    return ()


def upload_nothing(
    key: jax.Array,
    client: Client,
    totals: Any,
    data: ClientData,
    broadcast: Any,
    hyperparameters: Hyperparameters,
    *,
    model: Model,
) -> tuple[tuple[()], int]:
    """Sends nothing up."""
    del key, client, totals, data, broadcast, hyperparameters, model
    return (), 0


def no_aggregation(
    key: jax.Array,
    server: Any,
    uploads: Any,
    arrivals: Arrivals,
    hyperparameters: Hyperparameters,
) -> tuple[Any, dict[str, jax.Array]]:
    """Leaves the server as it is."""
    del key, uploads, arrivals, hyperparameters
    return server, {}


def forward(
    model: Model, params: dict[str, Any], statistics: dict[str, Any], batch: Batch, key: jax.Array
) -> tuple[Outputs, dict[str, Any]]:
    """The private model's training-mode outputs and the client's new statistics."""
    variables = {"params": params["model"], "batch_stats": statistics["model"]}
    outputs, variables = model.apply(variables, batch.images, train=True, mask=batch.mask, key=key)
    return outputs, {**statistics, "model": variables["batch_stats"]}


def infer(model: Model, client: Client, images: jax.Array) -> Outputs:
    """The private model's evaluation-mode outputs."""
    variables = {"params": client.params["model"], "batch_stats": client.statistics["model"]}
    return model.apply(variables, images)[0]


def cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy over the real rows; zero without any."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def head_loss(
    params: dict[str, Any],
    statistics: dict[str, Any],
    broadcast: Any,
    batch: Batch,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    *,
    model: Model,
) -> tuple[jax.Array, LossInfo]:
    """Cross-entropy of the head, and nothing else."""
    del broadcast, hyperparameters
    outputs, statistics = forward(model, params, statistics, batch, key)
    loss = cross_entropy(outputs.logits, batch.labels, batch.mask)
    return loss, LossInfo(outputs, statistics, {"cross_entropy": loss})


def predict_by_head(
    client: Client, broadcast: Any, images: jax.Array, *, model: Model
) -> dict[str, jax.Array]:
    """Class scores of the linear head alone."""
    del broadcast
    return {"head": infer(model, client, images).logits}


class Method(NamedTuple):
    """A federated method.

    Closures hold settings that are fixed for a program; whatever may vary between runs that
    share one program arrives as an argument. `client` below is a `types.Client`, `data` a
    `types.ClientData`, `batch` a `types.Batch`, `model` the client's own `types.Model`.
    `floats` counts the numbers that cross the network, for one client.

    Attributes:
      hyperparameters: names and default values of the traced scalars besides `learning_rate`.
      init_server: `(key) -> server`, any pytree.
      init_client: `(key, variables, server) -> client`.
      broadcast: `(server, round_index, hyperparameters) -> (broadcast, floats)`, what every
        client is sent.
      receive: `(client, broadcast) -> client`, for all clients, before training and before
        evaluation: overwriting heads or models.
      loss: `(params, statistics, broadcast, batch, key, hyperparameters, *, model) ->
        (loss, LossInfo)`, one joint objective of all of the client's `params`.
      optimizer: `(hyperparameters) -> optax.GradientTransformation`, fresh every round.
      observe: `(outputs, labels, mask) -> totals`, sums that add up over a client's samples.
      upload: `(key, client, totals, data, broadcast, hyperparameters, *, model) ->
        (upload, floats)`; `totals` are the sums of `observe`.
      aggregate: `(key, server, uploads, arrivals, hyperparameters) -> (server, info)`;
        `uploads` has leaves `[num_clients, ...]` in the order of client ids. `info` is a dict:
        its scalars are recorded, its arrays kept for the last evaluated round.
      predict: `(client, broadcast, images, *, model) -> {name: scores [B, C]}`; `name_accuracy`
        is reported for each. A row of -inf is counted as wrong.
    """

    hyperparameters: Mapping[str, float]
    init_server: Callable[..., Any] = no_server
    init_client: Callable[..., Client] = model_only
    broadcast: Callable[..., tuple[Any, Any]] = no_broadcast
    receive: Callable[..., Client] = keep
    loss: Callable[..., tuple[jax.Array, LossInfo]] = head_loss
    optimizer: Callable[..., optax.GradientTransformation] = sgd
    observe: Callable[..., Any] = observe_nothing
    upload: Callable[..., tuple[Any, Any]] = upload_nothing
    aggregate: Callable[..., tuple[Any, dict[str, jax.Array]]] = no_aggregation
    predict: Callable[..., dict[str, jax.Array]] = predict_by_head
