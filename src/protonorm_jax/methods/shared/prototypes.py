"""What the methods that exchange class prototypes share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax import thomson
from protonorm_jax.methods.method import Hyperparameters, LossInfo, cross_entropy, forward, infer
from protonorm_jax.methods.shared import class_table
from protonorm_jax.types import Batch, Client, ClientData, Model, Outputs, Prototypes


def unknown(num_classes: int, feature_dim: int) -> Prototypes:
    """The prototypes before any client has sent one."""
    return Prototypes(jnp.zeros((num_classes, feature_dim)), jnp.zeros(num_classes, bool))


def distance_to_prototypes(features: jax.Array, targets: Prototypes, batch: Batch) -> jax.Array:
    """Mean over rows and elements of (features - prototype of the label)^2.

    Rows whose class is unknown add zero but count in the mean, as in the reference codes, where
    such a row is its own target.

    Args:
      features: `[B, D]`.
      targets: `[C, D]`.
      batch: the labels and the mask.
    """
    counted = batch.mask & targets.known[batch.labels]
    squares = jnp.square(features - targets.vectors[batch.labels])
    squares = jnp.where(counted[:, None], squares, 0.0)
    return jnp.sum(squares) / (jnp.maximum(jnp.sum(batch.mask), 1) * features.shape[1])


def loss(
    params: dict[str, Any],
    statistics: dict[str, Any],
    broadcast: Prototypes,
    batch: Batch,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    *,
    model: Model,
) -> tuple[jax.Array, LossInfo]:
    """Cross-entropy + proximity * MSE(features, prototype of the label as broadcast)."""
    outputs, statistics = forward(model, params, statistics, batch, key)
    entropy = cross_entropy(outputs.logits, batch.labels, batch.mask)
    distance = distance_to_prototypes(outputs.features, broadcast, batch)
    terms = {"cross_entropy": entropy, "prototype_mse": distance}
    total = entropy + hyperparameters["proximity"] * distance
    return total, LossInfo(outputs, statistics, terms)


def observe_features(num_classes: int) -> Callable[..., class_table.ClassSums]:
    """The `observe` hook that sums features by class."""

    def observe(outputs: Outputs, labels: jax.Array, mask: jax.Array) -> class_table.ClassSums:
        return class_table.class_sums(outputs.features, labels, mask, num_classes=num_classes)

    return observe


def upload(
    key: jax.Array,
    client: Client,
    totals: class_table.ClassSums,
    data: ClientData,
    broadcast: Prototypes,
    hyperparameters: Hyperparameters,
    *,
    model: Model,
) -> tuple[class_table.ClassSums, jax.Array]:
    """Sends the sums and counts of the client's classes; the floats are those of its prototypes."""
    del key, client, data, broadcast, hyperparameters, model
    present = jnp.sum(totals.counts > 0)
    return totals, present * totals.sums.shape[1]


def broadcast(
    server: Prototypes, round_index: jax.Array, hyperparameters: Hyperparameters
) -> tuple[Prototypes, int]:
    """Sends all prototypes down, upscaled where the method has a scale."""
    del round_index
    vectors = server.vectors * hyperparameters.get("scale", 1.0)
    return Prototypes(vectors, server.known), vectors.size


def predict(
    client: Client, broadcast: Prototypes, images: jax.Array, *, model: Model
) -> dict[str, jax.Array]:
    """Class scores of the head and of the nearest prototypes."""
    outputs: Outputs = infer(model, client, images)
    nearest = class_table.nearest_scores(outputs.features, broadcast)
    return {"head": outputs.logits, "prototype": nearest}


def separation(means: Prototypes, sent: Prototypes) -> dict[str, jax.Array]:
    """Angles in degrees between the averaged prototypes and between those sent to the clients."""
    return {
        "mean_min_angle": thomson.min_angle(means.vectors, means.known),
        "min_angle": thomson.min_angle(sent.vectors, sent.known),
        "mean_angle": thomson.mean_angle(sent.vectors, sent.known),
        "known_classes": jnp.sum(sent.known),
        "class_means": means.vectors,
    }
