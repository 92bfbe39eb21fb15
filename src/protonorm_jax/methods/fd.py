"""FD: clients learn from the average logits that a class has among all of them."""

from typing import Any

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
    cross_entropy,
    forward,
    mean_of_rows,
)
from protonorm_jax.methods.shared import class_table, prototypes
from protonorm_jax.types import Batch, Models, Outputs, Prototypes


@settings.group
class Settings:
    """Of FD."""

    weight: float = settings.setting(
        1.0,
        "weight of the cross-entropy towards the average logits of the label",
        traced=True,
        least=0,
        tune=settings.between(0.05, 20, log=True),
    )
    targets: str = settings.setting(
        "softmax",
        "the probabilities in that cross-entropy: softmax of the average logits, or these logits "
        "as they are (raw: the reference code since November 2025), with which the loss has no "
        "lower bound and training may diverge",
        choices=("softmax", "raw"),
        reference="raw",
    )


def distillation(logits: jax.Array, table: Prototypes, batch: Batch, *, softmax: bool) -> jax.Array:
    """Mean over the real rows of -sum_c t_c log softmax(logits)_c.

    The target t is the table's row of the label, or the row's own logits, as constants, where the
    table has none; zero while it has none at all.

    Args:
      logits: `[B, C]`.
      table: `[C, C]`, logits by class.
      batch: the labels and the mask.
      softmax: whether t is the softmax of these logits.
    """
    known = table.known[batch.labels]
    own = jax.lax.stop_gradient(logits)
    targets = jnp.where(known[:, None], table.vectors[batch.labels], own)
    if softmax:
        targets = jax.nn.softmax(targets)
    losses = optax.softmax_cross_entropy(logits, targets)
    return jnp.where(table.known.any(), mean_of_rows(losses, batch.mask), 0.0)


def fd(setup: Setup, fixed: Settings) -> Method:
    """Federated distillation: CE(o, y) + weight * -sum_c t_c log softmax(o)_c.

    o are a sample's logits and t those of its label in the server's table, or o itself, as a
    constant, of a class that the table does not know. A client uploads the mean logits of each of
    its classes, as they came about in training, over all steps of the round; the server takes the
    plain mean over the clients that have the class. A class that nobody uploaded this round keeps
    its last row.

    Source: Jeong et al. 2018 (arXiv:1811.11479) as HtFLlib has it. The paper leaves a client's own
    logits out of its targets, the code does not. It forgets a class that nobody uploads; since
    November 2025 it takes the logits as they are for probabilities (`targets="raw"`).
    """
    num_classes = setup.num_classes

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
        other = distillation(outputs.logits, down, batch, softmax=fixed.targets == "softmax")
        terms = {"cross_entropy": entropy, "distillation_cross_entropy": other}
        return entropy + round.settings.weight * other, LossInfo(outputs, statistics, terms)

    def observe(outputs: Outputs, labels: jax.Array, mask: jax.Array) -> class_table.ClassSums:
        return class_table.class_sums(outputs.logits, labels, mask, num_classes=num_classes)

    def aggregate(
        key: jax.Array, server: Prototypes, received: Received, round: Round
    ) -> tuple[Prototypes, dict[str, jax.Array]]:
        del key, round
        table = class_table.average(received.each, server)
        return table, {"known_classes": jnp.sum(table.known)}

    return Method(
        init_server=lambda *_: prototypes.unknown(num_classes, num_classes),
        broadcast=prototypes.broadcast,
        loss=loss,
        observe=observe,
        upload=prototypes.upload,
        aggregate=aggregate,
        show=lambda server: {"logits": server.vectors, "known": server.known},
        collect="during",
        rows="arrived",
    )
