"""What the methods that exchange class prototypes share."""

from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax import settings, thomson
from protonorm_jax.methods.method import (
    Loss,
    LossInfo,
    Observe,
    Round,
    Setup,
    Upload,
    cross_entropy,
    forward,
    infer,
)
from protonorm_jax.methods.shared import class_table
from protonorm_jax.types import Batch, Client, ClientData, Models, Outputs, Prototypes

WEIGHTINGS = ("uniform", "samples")
COLLECTIONS = ("after", "before", "during")
DISTANCES = ("mse", "squared")


def proximity(default: float = 10.0) -> Any:
    """The setting of how strongly features are pulled to prototypes."""
    return settings.setting(
        default,
        "lambda: weight of the distance between features and prototypes as sent",
        traced=True,
        least=0,
        tune=settings.between(0.1, 100, log=True),
    )


def distance() -> Any:
    """The setting of what `proximity` is the weight of."""
    return settings.setting(
        "mse",
        "of a sample's features from its prototype: the mean over elements of the squared "
        "difference, or its sum (the squared length, D times as much)",
        choices=DISTANCES,
        later=True,
    )


def weighting() -> Any:
    """The setting of how clients' prototypes are averaged."""
    return settings.setting(
        "uniform",
        "clients in the average of a class: all alike (the public codes), or by their samples of "
        "it (FedProto's paper)",
        choices=WEIGHTINGS,
    )


def collect(choices: tuple[str, ...] = COLLECTIONS, *, reference: str) -> Any:
    """The setting of the model that prototypes are taken from."""
    return settings.setting(
        "after",
        "when prototypes are taken of the model that trains",
        choices=choices,
        reference=reference,
    )


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
    count = jnp.maximum(jnp.sum(batch.mask), 1) * features.shape[1]
    return jnp.sum(squares) / count.astype(squares.dtype)


def loss_of(distance: str) -> Loss:
    """The `loss` hook: cross-entropy + proximity * distance to the prototype of the label as sent.

    The terms report the mean over elements whatever the `distance` is.
    """

    def loss(
        params: dict[str, Any],
        statistics: dict[str, Any],
        down: Prototypes,
        batch: Batch,
        key: jax.Array,
        round: Round,
        *,
        models: Models,
    ) -> tuple[jax.Array, LossInfo]:
        outputs, statistics = forward(models, params, statistics, batch, key)
        entropy = cross_entropy(outputs.logits, batch.labels, batch.mask)
        mean = distance_to_prototypes(outputs.features, down, batch)
        elements = outputs.features.shape[1] if distance == "squared" else 1
        terms = {"cross_entropy": entropy, "prototype_mse": mean}
        total = entropy + round.settings.proximity * elements * mean
        return total, LossInfo(outputs, statistics, terms)

    return loss


def notes(setup: Setup, settings: Any) -> tuple[str, ...]:
    """How strong `proximity` is on the other of the two distances."""
    given, elements = settings.proximity, setup.feature_dim
    if settings.distance == "squared":
        return (
            f"proximity {given:g} on the squared distance: "
            f"effective weight {given * elements:.4g} on the mean over {elements} elements",
        )
    return (
        f"proximity {given:g} on the mean over {elements} elements: "
        f"effective weight {given / elements:.4g} on the squared distance",
    )


def observe_features(num_classes: int) -> Observe:
    """The `observe` hook that sums features by class."""

    def observe(outputs: Outputs, labels: jax.Array, mask: jax.Array) -> class_table.ClassSums:
        return class_table.class_sums(outputs.features, labels, mask, num_classes=num_classes)

    return observe


def upload(
    key: jax.Array,
    client: Client,
    totals: class_table.ClassSums,
    data: ClientData,
    down: Prototypes,
    round: Round,
    *,
    models: Models,
) -> Upload:
    """Sends the sums and counts of the client's classes; the floats are those of its prototypes."""
    del key, client, data, down, round, models
    present = jnp.sum(totals.counts > 0)
    return Upload(each=totals, floats=present * totals.sums.shape[1])


def broadcast(server: Prototypes, round: Round) -> tuple[Prototypes, int]:
    """Sends all prototypes down."""
    del round
    return server, server.vectors.size


def predict(
    client: Client, down: Prototypes, inputs: Any, *, models: Models
) -> dict[str, jax.Array]:
    """Class scores of the head and of the nearest prototypes."""
    outputs = infer(models, client, inputs)
    nearest = class_table.nearest_scores(outputs.features, down)
    return {"head": outputs.logits, "prototype": nearest}


def show(server: Prototypes) -> dict[str, jax.Array]:
    """The prototypes `[C, D]` and which of them are known `[C]`."""
    return {"prototypes": server.vectors, "known": server.known}


def separation(means: Prototypes, sent: Prototypes) -> dict[str, jax.Array]:
    """Angles in degrees between the averaged prototypes and between those sent to the clients."""
    return {
        "mean_min_angle": thomson.min_angle(means.vectors, means.known),
        "min_angle": thomson.min_angle(sent.vectors, sent.known),
        "mean_angle": thomson.mean_angle(sent.vectors, sent.known),
        "known_classes": jnp.sum(sent.known),
        "class_means": means.vectors,
    }
