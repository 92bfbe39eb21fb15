"""How well one client's model predicts its own test samples. Pure, for one client."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from protonorm_jax.engine import batches
from protonorm_jax.methods.method import Method
from protonorm_jax.types import Batch, Client, ClientData, Model


def count_correct(
    client: Client,
    broadcast: Any,
    data: ClientData,
    *,
    model: Model,
    method: Method,
    batch_size: int,
    widths: Sequence[int] = (),
) -> dict[str, jax.Array]:
    """Counts right predictions by each of the method's predictors.

    Args:
      client: the state of the client.
      broadcast: what the server sent.
      data: the client's test samples.
      model: the client's architecture.
      method: the federated method.
      batch_size: samples at once.
      widths: for clients under `vmap`, see `lockstep.repeat`.

    Returns:
      `{name: [] int32}` for every name of `method.predict`. A sample without any finite score,
      as before any prototype is known, counts as wrong.
    """

    def correct(batch: Batch, given: tuple[Client, Any]) -> dict[str, jax.Array]:
        scores = method.predict(*given, batch.images, model=model)

        def hits(score: jax.Array) -> jax.Array:
            right = jnp.argmax(score, axis=1) == batch.labels
            return jnp.sum(right & jnp.isfinite(score).any(axis=1) & batch.mask)

        return jax.tree.map(hits, scores)

    given = (client, broadcast)
    return batches.total(correct, data, given, batch_size=batch_size, widths=widths)
